//! What extends the API: CustomResourceDefinitions and APIServices. Their schemas and the servers behind them are checked where
//! they are used.

mod api_service;
pub mod approval;
mod definition;
mod formats;
mod versions;

pub(super) use api_service::HOOKS as API_SERVICE;
pub(super) use definition::HOOKS as DEFINITION;
pub use formats::TEXT_FORMATS;
