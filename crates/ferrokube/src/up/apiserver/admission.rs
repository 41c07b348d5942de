//! Which admission plugins run, and their configuration.

use anyhow::Result;
use clap::Args;
use ferrokube_apiserver::admission::{AdmissionConfig, TOLERATION};
use std::path::PathBuf;

#[derive(Args, Clone, Debug)]
pub(super) struct AdmissionFlags {
    /// Admission plugins to run besides those that are on by default
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    enable_admission_plugins: Vec<String>,
    /// Admission plugins not to run
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    disable_admission_plugins: Vec<String>,
    /// File with the configuration of admission plugins
    #[arg(long, value_name = "FILE")]
    admission_control_config_file: Option<PathBuf>,
    /// Seconds that pods stay on a node that is not ready, unless they say so themselves
    #[arg(long, value_name = "SECONDS", default_value_t = TOLERATION)]
    default_not_ready_toleration_seconds: i64,
    /// Seconds that pods stay on a node that does not answer, unless they say so themselves
    #[arg(long, value_name = "SECONDS", default_value_t = TOLERATION)]
    default_unreachable_toleration_seconds: i64,
}

impl AdmissionFlags {
    pub fn config(&self) -> Result<AdmissionConfig> {
        let (enable, disable) = (self.enable_admission_plugins.clone(), self.disable_admission_plugins.clone());
        let config = AdmissionConfig {
            enable,
            disable,
            not_ready_seconds: Some(self.default_not_ready_toleration_seconds),
            unreachable_seconds: Some(self.default_unreachable_toleration_seconds),
            ..AdmissionConfig::default()
        };
        match &self.admission_control_config_file {
            Some(file) => Ok(config.read(file)?),
            None => Ok(config),
        }
    }
}
