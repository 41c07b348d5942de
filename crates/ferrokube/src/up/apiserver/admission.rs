//! Which admission plugins run, and their configuration.

use anyhow::Result;
use clap::Args;
use ferrokube_apiserver::admission::AdmissionConfig;
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
}

impl AdmissionFlags {
    pub fn config(&self) -> Result<AdmissionConfig> {
        let (enable, disable) = (self.enable_admission_plugins.clone(), self.disable_admission_plugins.clone());
        let config = AdmissionConfig { enable, disable, ..AdmissionConfig::default() };
        match &self.admission_control_config_file {
            Some(file) => Ok(config.read(file)?),
            None => Ok(config),
        }
    }
}
