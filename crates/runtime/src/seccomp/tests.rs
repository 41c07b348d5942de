use super::*;

/// Runs a filter as the kernel would, for a call without arguments worth looking at.
fn outcome(filters: &[Vec<u8>], number: i64, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend_from_slice(&u32::try_from(number).expect("a number").to_ne_bytes());
    data.extend_from_slice(&0xc000_003e_u32.to_ne_bytes());
    data.extend_from_slice(&0u64.to_ne_bytes());
    for argument in arguments {
        data.extend_from_slice(&argument.to_ne_bytes());
    }
    let mut worst: Option<u32> = None;
    for filter in filters.iter().rev() {
        let answer = interpret(filter, &data);
        if worst.is_none_or(|worst| (answer & 0xffff_0000).cast_signed() < (worst & 0xffff_0000).cast_signed()) {
            worst = Some(answer);
        }
    }
    worst.expect("a filter")
}

fn interpret(filter: &[u8], data: &[u8]) -> u32 {
    let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let raw = &filter[at * 8..at * 8 + 8];
        let (code, jt, jf, k) = (u16::from_ne_bytes([raw[0], raw[1]]), raw[2], raw[3], word(&raw[4..]));
        let mut jump = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = word(&data[k as usize..k as usize + 4]),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
        at += 1;
    }
}

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

#[cfg(target_arch = "x86_64")]
#[test]
fn the_default_profile_lets_through_what_programs_need() {
    let filters = compile(&SeccompChoice::RuntimeDefault, Path::new("/"), &[]).expect("compiles");
    let call = |number: i64, first: u64| outcome(&filters, number, [first, 0, 0, 0, 0, 0]);
    for number in [libc::SYS_read, libc::SYS_execve, libc::SYS_prctl, libc::SYS_capset, libc::SYS_openat, 452] {
        assert_eq!(call(number, 0), ALLOW, "{number}");
    }
    for number in [libc::SYS_mount, libc::SYS_bpf, libc::SYS_reboot, libc::SYS_unshare, libc::SYS_keyctl, 9999] {
        assert_eq!(call(number, 0), ERRNO | 1, "{number}");
    }
    assert_eq!(call(libc::SYS_clone3, 0), ERRNO | 38);
    assert_eq!(call(libc::SYS_clone, 17), ALLOW);
    assert_eq!(call(libc::SYS_clone, 0x1000_0000), ERRNO | 1);
    assert_eq!(call(libc::SYS_socket, 2), ALLOW);
    assert_eq!(call(libc::SYS_socket, 40), ERRNO | 1);
    assert_eq!(call(libc::SYS_personality, 8), ALLOW);
    assert_eq!(call(libc::SYS_personality, 9), ERRNO | 1);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_capability_brings_its_calls() {
    let filters = compile(&SeccompChoice::RuntimeDefault, Path::new("/"), &["CAP_SYS_ADMIN".to_owned()]).expect("compiles");
    for number in [libc::SYS_mount, libc::SYS_clone3, libc::SYS_unshare] {
        assert_eq!(outcome(&filters, number, [0; 6]), ALLOW, "{number}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_profile_with_several_outcomes_becomes_several_filters() {
    let profile = parse(
        br#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],"syscalls":[
            {"names":["mkdir","mkdirat","made_up"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
            {"names":["chmod"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":1,"value":511,"op":"SCMP_CMP_EQ"}]}]}"#,
    )
    .expect("parses");
    let filters = filters(&profile).expect("compiles");
    assert_eq!(outcome(&filters, libc::SYS_mkdir, [0; 6]), ERRNO | 13);
    assert_eq!(outcome(&filters, libc::SYS_read, [0; 6]), ALLOW);
    assert_eq!(outcome(&filters, libc::SYS_chmod, [0, 511, 0, 0, 0, 0]), 0x8000_0000);
    assert_eq!(outcome(&filters, libc::SYS_chmod, [0, 420, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn what_cannot_be_honoured_is_an_error() {
    let cases = [
        r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_S390X"]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#,
        r#"{"syscalls":[]}"#,
        "",
    ];
    for case in cases {
        assert!(parse(case.as_bytes()).is_err(), "{case}");
    }
    assert!(compile(&SeccompChoice::Localhost("/not/there.json".into()), Path::new("/"), &[]).is_err());
}
