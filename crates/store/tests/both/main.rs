//! What holds of every engine, tried with the embedded one and with a real etcd on loopback; and what only etcd can do to us.

mod etcd_faults;
mod expiry;
mod harness;
mod model;
mod together;
mod watch;
