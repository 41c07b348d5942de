//! A new user's path, end to end: the real binary, the real kubectl, real containers, in an isolated lab.
//!
//! Every scenario has a node and a cluster of its own. Nothing is fetched from inside; images are built here.

mod bad_input;
mod cluster;
mod guestbook;
mod lifecycle;
mod metrics;
mod node;
mod pods;
mod resize;
