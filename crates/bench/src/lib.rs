//! Measures any conformant server given a kubeconfig.
