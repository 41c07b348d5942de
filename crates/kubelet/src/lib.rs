//! The node agent: runs pods through CRI, and nothing else.
