//! The loops of the control plane, one file each.
