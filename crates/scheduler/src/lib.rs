//! Pod placement: pure over a snapshot, with a thin loop around it.
