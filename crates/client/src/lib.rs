//! How components reach the API: in-process or over the network, shared caches, work queues, events, leader election.
