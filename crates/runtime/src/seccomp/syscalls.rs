//! Numbers of system calls by name, for the profiles that name them.
//!
//! The numbers are the `libc` crate's; those that it does not know yet have the same number on every architecture.

use libc as c;

/// The number of a system call on this architecture; none when it has no such call.
pub fn number(name: &str) -> Option<i64> {
    let find = |table: &[(&str, i64)]| table.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    find(EVERYWHERE).or_else(|| find(INTEL)).or_else(|| find(NEW))
}

/// Calls of all architectures.
#[rustfmt::skip]
const EVERYWHERE: &[(&str, i64)] = &[
    ("accept", c::SYS_accept), ("accept4", c::SYS_accept4), ("acct", c::SYS_acct), ("add_key", c::SYS_add_key),
    ("adjtimex", c::SYS_adjtimex), ("bind", c::SYS_bind), ("bpf", c::SYS_bpf), ("brk", c::SYS_brk), ("capget", c::SYS_capget),
    ("capset", c::SYS_capset), ("chdir", c::SYS_chdir), ("chroot", c::SYS_chroot), ("clock_adjtime", c::SYS_clock_adjtime),
    ("clock_getres", c::SYS_clock_getres), ("clock_gettime", c::SYS_clock_gettime), ("clock_nanosleep", c::SYS_clock_nanosleep),
    ("clock_settime", c::SYS_clock_settime), ("clone", c::SYS_clone), ("clone3", c::SYS_clone3), ("close", c::SYS_close),
    ("close_range", c::SYS_close_range), ("connect", c::SYS_connect), ("copy_file_range", c::SYS_copy_file_range),
    ("delete_module", c::SYS_delete_module), ("dup", c::SYS_dup), ("dup3", c::SYS_dup3), ("epoll_create1", c::SYS_epoll_create1),
    ("epoll_ctl", c::SYS_epoll_ctl), ("epoll_pwait", c::SYS_epoll_pwait), ("epoll_pwait2", c::SYS_epoll_pwait2),
    ("eventfd2", c::SYS_eventfd2), ("execve", c::SYS_execve), ("execveat", c::SYS_execveat), ("exit", c::SYS_exit),
    ("exit_group", c::SYS_exit_group), ("faccessat", c::SYS_faccessat), ("faccessat2", c::SYS_faccessat2),
    ("fadvise64", c::SYS_fadvise64), ("fallocate", c::SYS_fallocate), ("fanotify_init", c::SYS_fanotify_init),
    ("fanotify_mark", c::SYS_fanotify_mark), ("fchdir", c::SYS_fchdir), ("fchmod", c::SYS_fchmod), ("fchmodat", c::SYS_fchmodat),
    ("fchown", c::SYS_fchown), ("fchownat", c::SYS_fchownat), ("fcntl", c::SYS_fcntl), ("fdatasync", c::SYS_fdatasync),
    ("fgetxattr", c::SYS_fgetxattr), ("finit_module", c::SYS_finit_module), ("flistxattr", c::SYS_flistxattr), ("flock", c::SYS_flock),
    ("fremovexattr", c::SYS_fremovexattr), ("fsconfig", c::SYS_fsconfig), ("fsetxattr", c::SYS_fsetxattr), ("fsmount", c::SYS_fsmount),
    ("fsopen", c::SYS_fsopen), ("fspick", c::SYS_fspick), ("fstat", c::SYS_fstat), ("fstatfs", c::SYS_fstatfs), ("fsync", c::SYS_fsync),
    ("ftruncate", c::SYS_ftruncate), ("futex", c::SYS_futex), ("futex_waitv", c::SYS_futex_waitv),
    ("get_mempolicy", c::SYS_get_mempolicy), ("get_robust_list", c::SYS_get_robust_list), ("getcpu", c::SYS_getcpu),
    ("getcwd", c::SYS_getcwd), ("getdents64", c::SYS_getdents64), ("getegid", c::SYS_getegid), ("geteuid", c::SYS_geteuid),
    ("getgid", c::SYS_getgid), ("getgroups", c::SYS_getgroups), ("getitimer", c::SYS_getitimer), ("getpeername", c::SYS_getpeername),
    ("getpgid", c::SYS_getpgid), ("getpid", c::SYS_getpid), ("getppid", c::SYS_getppid), ("getpriority", c::SYS_getpriority),
    ("getrandom", c::SYS_getrandom), ("getresgid", c::SYS_getresgid), ("getresuid", c::SYS_getresuid), ("getrusage", c::SYS_getrusage),
    ("getsid", c::SYS_getsid), ("getsockname", c::SYS_getsockname), ("getsockopt", c::SYS_getsockopt), ("gettid", c::SYS_gettid),
    ("gettimeofday", c::SYS_gettimeofday), ("getuid", c::SYS_getuid), ("getxattr", c::SYS_getxattr), ("init_module", c::SYS_init_module),
    ("inotify_add_watch", c::SYS_inotify_add_watch), ("inotify_init1", c::SYS_inotify_init1),
    ("inotify_rm_watch", c::SYS_inotify_rm_watch), ("io_cancel", c::SYS_io_cancel), ("io_destroy", c::SYS_io_destroy),
    ("io_getevents", c::SYS_io_getevents), ("io_setup", c::SYS_io_setup), ("io_submit", c::SYS_io_submit),
    ("io_uring_enter", c::SYS_io_uring_enter), ("io_uring_register", c::SYS_io_uring_register), ("io_uring_setup", c::SYS_io_uring_setup),
    ("ioctl", c::SYS_ioctl), ("ioprio_get", c::SYS_ioprio_get), ("ioprio_set", c::SYS_ioprio_set), ("kcmp", c::SYS_kcmp),
    ("kexec_file_load", c::SYS_kexec_file_load), ("kexec_load", c::SYS_kexec_load), ("keyctl", c::SYS_keyctl), ("kill", c::SYS_kill),
    ("landlock_add_rule", c::SYS_landlock_add_rule), ("landlock_create_ruleset", c::SYS_landlock_create_ruleset),
    ("landlock_restrict_self", c::SYS_landlock_restrict_self), ("lgetxattr", c::SYS_lgetxattr), ("linkat", c::SYS_linkat),
    ("listen", c::SYS_listen), ("listxattr", c::SYS_listxattr), ("llistxattr", c::SYS_llistxattr),
    ("lookup_dcookie", c::SYS_lookup_dcookie), ("lremovexattr", c::SYS_lremovexattr), ("lseek", c::SYS_lseek),
    ("lsetxattr", c::SYS_lsetxattr), ("madvise", c::SYS_madvise), ("mbind", c::SYS_mbind), ("membarrier", c::SYS_membarrier),
    ("memfd_create", c::SYS_memfd_create), ("memfd_secret", c::SYS_memfd_secret), ("migrate_pages", c::SYS_migrate_pages),
    ("mincore", c::SYS_mincore), ("mkdirat", c::SYS_mkdirat), ("mknodat", c::SYS_mknodat), ("mlock", c::SYS_mlock),
    ("mlock2", c::SYS_mlock2), ("mlockall", c::SYS_mlockall), ("mmap", c::SYS_mmap), ("mount", c::SYS_mount),
    ("mount_setattr", c::SYS_mount_setattr), ("move_mount", c::SYS_move_mount), ("move_pages", c::SYS_move_pages),
    ("mprotect", c::SYS_mprotect), ("mq_getsetattr", c::SYS_mq_getsetattr), ("mq_notify", c::SYS_mq_notify), ("mq_open", c::SYS_mq_open),
    ("mq_timedreceive", c::SYS_mq_timedreceive), ("mq_timedsend", c::SYS_mq_timedsend), ("mq_unlink", c::SYS_mq_unlink),
    ("mremap", c::SYS_mremap), ("mseal", c::SYS_mseal), ("msgctl", c::SYS_msgctl), ("msgget", c::SYS_msgget), ("msgrcv", c::SYS_msgrcv),
    ("msgsnd", c::SYS_msgsnd), ("msync", c::SYS_msync), ("munlock", c::SYS_munlock), ("munlockall", c::SYS_munlockall),
    ("munmap", c::SYS_munmap), ("name_to_handle_at", c::SYS_name_to_handle_at), ("nanosleep", c::SYS_nanosleep),
    ("newfstatat", c::SYS_newfstatat), ("nfsservctl", c::SYS_nfsservctl), ("open_by_handle_at", c::SYS_open_by_handle_at),
    ("open_tree", c::SYS_open_tree), ("openat", c::SYS_openat), ("openat2", c::SYS_openat2), ("perf_event_open", c::SYS_perf_event_open),
    ("personality", c::SYS_personality), ("pidfd_getfd", c::SYS_pidfd_getfd), ("pidfd_open", c::SYS_pidfd_open),
    ("pidfd_send_signal", c::SYS_pidfd_send_signal), ("pipe2", c::SYS_pipe2), ("pivot_root", c::SYS_pivot_root),
    ("pkey_alloc", c::SYS_pkey_alloc), ("pkey_free", c::SYS_pkey_free), ("pkey_mprotect", c::SYS_pkey_mprotect), ("ppoll", c::SYS_ppoll),
    ("prctl", c::SYS_prctl), ("pread64", c::SYS_pread64), ("preadv", c::SYS_preadv), ("preadv2", c::SYS_preadv2),
    ("prlimit64", c::SYS_prlimit64), ("process_madvise", c::SYS_process_madvise), ("process_mrelease", c::SYS_process_mrelease),
    ("process_vm_readv", c::SYS_process_vm_readv), ("process_vm_writev", c::SYS_process_vm_writev), ("pselect6", c::SYS_pselect6),
    ("ptrace", c::SYS_ptrace), ("pwrite64", c::SYS_pwrite64), ("pwritev", c::SYS_pwritev), ("pwritev2", c::SYS_pwritev2),
    ("quotactl", c::SYS_quotactl), ("quotactl_fd", c::SYS_quotactl_fd), ("read", c::SYS_read), ("readahead", c::SYS_readahead),
    ("readlinkat", c::SYS_readlinkat), ("readv", c::SYS_readv), ("reboot", c::SYS_reboot), ("recvfrom", c::SYS_recvfrom),
    ("recvmmsg", c::SYS_recvmmsg), ("recvmsg", c::SYS_recvmsg), ("remap_file_pages", c::SYS_remap_file_pages),
    ("removexattr", c::SYS_removexattr), ("renameat2", c::SYS_renameat2), ("request_key", c::SYS_request_key),
    ("restart_syscall", c::SYS_restart_syscall), ("rseq", c::SYS_rseq), ("rt_sigaction", c::SYS_rt_sigaction),
    ("rt_sigpending", c::SYS_rt_sigpending), ("rt_sigprocmask", c::SYS_rt_sigprocmask), ("rt_sigqueueinfo", c::SYS_rt_sigqueueinfo),
    ("rt_sigreturn", c::SYS_rt_sigreturn), ("rt_sigsuspend", c::SYS_rt_sigsuspend), ("rt_sigtimedwait", c::SYS_rt_sigtimedwait),
    ("rt_tgsigqueueinfo", c::SYS_rt_tgsigqueueinfo), ("sched_get_priority_max", c::SYS_sched_get_priority_max),
    ("sched_get_priority_min", c::SYS_sched_get_priority_min), ("sched_getaffinity", c::SYS_sched_getaffinity),
    ("sched_getattr", c::SYS_sched_getattr), ("sched_getparam", c::SYS_sched_getparam), ("sched_getscheduler", c::SYS_sched_getscheduler),
    ("sched_rr_get_interval", c::SYS_sched_rr_get_interval), ("sched_setaffinity", c::SYS_sched_setaffinity),
    ("sched_setattr", c::SYS_sched_setattr), ("sched_setparam", c::SYS_sched_setparam), ("sched_setscheduler", c::SYS_sched_setscheduler),
    ("sched_yield", c::SYS_sched_yield), ("seccomp", c::SYS_seccomp), ("semctl", c::SYS_semctl), ("semget", c::SYS_semget),
    ("semop", c::SYS_semop), ("semtimedop", c::SYS_semtimedop), ("sendfile", c::SYS_sendfile), ("sendmmsg", c::SYS_sendmmsg),
    ("sendmsg", c::SYS_sendmsg), ("sendto", c::SYS_sendto), ("set_mempolicy", c::SYS_set_mempolicy),
    ("set_mempolicy_home_node", c::SYS_set_mempolicy_home_node), ("set_robust_list", c::SYS_set_robust_list),
    ("set_tid_address", c::SYS_set_tid_address), ("setdomainname", c::SYS_setdomainname), ("setfsgid", c::SYS_setfsgid),
    ("setfsuid", c::SYS_setfsuid), ("setgid", c::SYS_setgid), ("setgroups", c::SYS_setgroups), ("sethostname", c::SYS_sethostname),
    ("setitimer", c::SYS_setitimer), ("setns", c::SYS_setns), ("setpgid", c::SYS_setpgid), ("setpriority", c::SYS_setpriority),
    ("setregid", c::SYS_setregid), ("setresgid", c::SYS_setresgid), ("setresuid", c::SYS_setresuid), ("setreuid", c::SYS_setreuid),
    ("setsid", c::SYS_setsid), ("setsockopt", c::SYS_setsockopt), ("settimeofday", c::SYS_settimeofday), ("setuid", c::SYS_setuid),
    ("setxattr", c::SYS_setxattr), ("shmat", c::SYS_shmat), ("shmctl", c::SYS_shmctl), ("shmdt", c::SYS_shmdt), ("shmget", c::SYS_shmget),
    ("shutdown", c::SYS_shutdown), ("sigaltstack", c::SYS_sigaltstack), ("signalfd4", c::SYS_signalfd4), ("socket", c::SYS_socket),
    ("socketpair", c::SYS_socketpair), ("splice", c::SYS_splice), ("statfs", c::SYS_statfs), ("statx", c::SYS_statx),
    ("swapoff", c::SYS_swapoff), ("swapon", c::SYS_swapon), ("symlinkat", c::SYS_symlinkat), ("sync", c::SYS_sync),
    ("syncfs", c::SYS_syncfs), ("sysinfo", c::SYS_sysinfo), ("syslog", c::SYS_syslog), ("tee", c::SYS_tee), ("tgkill", c::SYS_tgkill),
    ("timer_create", c::SYS_timer_create), ("timer_delete", c::SYS_timer_delete), ("timer_getoverrun", c::SYS_timer_getoverrun),
    ("timer_gettime", c::SYS_timer_gettime), ("timer_settime", c::SYS_timer_settime), ("timerfd_create", c::SYS_timerfd_create),
    ("timerfd_gettime", c::SYS_timerfd_gettime), ("timerfd_settime", c::SYS_timerfd_settime), ("times", c::SYS_times),
    ("tkill", c::SYS_tkill), ("truncate", c::SYS_truncate), ("umask", c::SYS_umask), ("umount2", c::SYS_umount2), ("uname", c::SYS_uname),
    ("unlinkat", c::SYS_unlinkat), ("unshare", c::SYS_unshare), ("userfaultfd", c::SYS_userfaultfd), ("utimensat", c::SYS_utimensat),
    ("vhangup", c::SYS_vhangup), ("vmsplice", c::SYS_vmsplice), ("wait4", c::SYS_wait4), ("waitid", c::SYS_waitid),
    ("write", c::SYS_write), ("writev", c::SYS_writev),
];

/// Older calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const INTEL: &[(&str, i64)] = &[
    ("_sysctl", c::SYS__sysctl), ("access", c::SYS_access), ("afs_syscall", c::SYS_afs_syscall), ("alarm", c::SYS_alarm),
    ("arch_prctl", c::SYS_arch_prctl), ("chmod", c::SYS_chmod), ("chown", c::SYS_chown), ("creat", c::SYS_creat), ("dup2", c::SYS_dup2),
    ("epoll_create", c::SYS_epoll_create), ("epoll_ctl_old", c::SYS_epoll_ctl_old), ("epoll_wait", c::SYS_epoll_wait),
    ("epoll_wait_old", c::SYS_epoll_wait_old), ("eventfd", c::SYS_eventfd), ("fork", c::SYS_fork), ("futimesat", c::SYS_futimesat),
    ("get_thread_area", c::SYS_get_thread_area), ("getdents", c::SYS_getdents), ("getpgrp", c::SYS_getpgrp), ("getpmsg", c::SYS_getpmsg),
    ("getrlimit", c::SYS_getrlimit), ("inotify_init", c::SYS_inotify_init), ("ioperm", c::SYS_ioperm), ("iopl", c::SYS_iopl),
    ("lchown", c::SYS_lchown), ("link", c::SYS_link), ("lstat", c::SYS_lstat), ("mkdir", c::SYS_mkdir), ("mknod", c::SYS_mknod),
    ("modify_ldt", c::SYS_modify_ldt), ("open", c::SYS_open), ("pause", c::SYS_pause), ("pipe", c::SYS_pipe), ("poll", c::SYS_poll),
    ("putpmsg", c::SYS_putpmsg), ("readlink", c::SYS_readlink), ("rename", c::SYS_rename), ("renameat", c::SYS_renameat),
    ("rmdir", c::SYS_rmdir), ("security", c::SYS_security), ("select", c::SYS_select), ("set_thread_area", c::SYS_set_thread_area),
    ("setrlimit", c::SYS_setrlimit), ("signalfd", c::SYS_signalfd), ("stat", c::SYS_stat), ("symlink", c::SYS_symlink),
    ("sync_file_range", c::SYS_sync_file_range), ("sysfs", c::SYS_sysfs), ("time", c::SYS_time), ("tuxcall", c::SYS_tuxcall),
    ("unlink", c::SYS_unlink), ("uselib", c::SYS_uselib), ("ustat", c::SYS_ustat), ("utime", c::SYS_utime), ("utimes", c::SYS_utimes),
    ("vfork", c::SYS_vfork), ("vserver", c::SYS_vserver),
];

/// Nothing of the kind elsewhere.
#[cfg(not(target_arch = "x86_64"))]
const INTEL: &[(&str, i64)] = &[];

/// Calls newer than the `libc` crate's tables.
#[rustfmt::skip]
const NEW: &[(&str, i64)] = &[
    ("cachestat", 451), ("fchmodat2", 452), ("map_shadow_stack", 453), ("futex_wake", 454), ("futex_wait", 455), ("futex_requeue", 456),
    ("statmount", 457), ("listmount", 458), ("lsm_get_self_attr", 459), ("lsm_set_self_attr", 460), ("lsm_list_modules", 461),
    ("mseal", 462), ("setxattrat", 463), ("getxattrat", 464), ("listxattrat", 465), ("removexattrat", 466),
];
