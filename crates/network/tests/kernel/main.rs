//! The kernel for real: pods connected by our plugin, services by our rules, each test in a network of its own.

mod lab;
mod live;
mod pods;
mod services;
