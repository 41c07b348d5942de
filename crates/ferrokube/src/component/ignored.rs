//! Flags of upstream's components that a command line may have and that change nothing here: caches, clients and loops that do
//! not exist, logs of another form. A flag whose absence would be noticed never comes here; it works, or it is refused.
//!
//! That they change nothing is said in the log when they are given ([`given`]): somebody may have counted on them.

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command};

/// By which these flags are told from others: they are hidden, so that nobody sees it.
pub const HEADING: &str = "Without effect";

/// The flags without effect that a command line has, by name.
pub fn given(command: &Command, matches: &ArgMatches) -> Vec<String> {
    let flags = command.get_arguments().filter(|a| a.get_help_heading() == Some(HEADING));
    let flags = flags.filter(|a| matches.value_source(a.get_id().as_str()) == Some(ValueSource::CommandLine));
    let mut names: Vec<_> = flags.filter_map(|a| Some(format!("--{}", a.get_long()?))).collect();
    names.sort();
    names
}

macro_rules! ignored {
    ($($(#[$doc:meta])* $name:ident: $($field:ident)*; switches: $($switch:ident)*;)*) => {
        $($(#[$doc])*
        #[derive(Args, Clone, Debug)]
        pub struct $name {
            $(#[arg(long, hide = true, help_heading = HEADING)]
            $field: Option<String>,)*
            $(#[arg(long, hide = true, help_heading = HEADING, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
            $switch: Option<bool>,)*
        })*
    };
}

ignored! {
    /// Of every component. There is one version to be compatible with, and labels of metrics have few values.
    Everywhere:
        kube_api_qps kube_api_burst kube_api_content_type min_resync_period show_hidden_metrics_for_version allow_metric_labels
        allow_metric_labels_manifest min_compatibility_version logging_format log_flush_frequency log_json_info_buffer_size
        log_text_info_buffer_size vmodule;
        switches: contention_profiling log_json_split_stream log_text_split_stream;
    /// Of whoever serves: front proxies are not asked for here, and answers of the API server are not kept.
    Serving:
        requestheader_client_ca_file requestheader_allowed_names requestheader_username_headers requestheader_uid_headers
        requestheader_group_headers requestheader_extra_headers_prefix cert_dir http2_max_streams_per_connection
        authentication_token_webhook_cache_ttl authorization_webhook_cache_authorized_ttl
        authorization_webhook_cache_unauthorized_ttl;
        switches: authentication_tolerate_lookup_failure permit_port_sharing permit_address_sharing;
    /// Of the API server: one watch cache of one kind, polls of a store that answers when it is asked, ports that kubelets no longer have, and
    /// logs.
    Apiserver:
        apiserver_count default_watch_cache_size watch_cache_sizes delete_collection_workers etcd_count_metric_poll_period
        etcd_db_metric_poll_interval etcd_healthcheck_timeout etcd_readycheck_timeout kubelet_port kubelet_preferred_address_types
        kubelet_read_only_port kubelet_timeout lease_reuse_duration_seconds livez_grace_period storage_initialization_timeout cert_dir
        show_hidden_metrics_for_version logging_format log_flush_frequency log_json_info_buffer_size log_text_info_buffer_size vmodule;
        switches: allow_privileged watch_cache contention_profiling log_json_split_stream log_text_split_stream permit_port_sharing
        permit_address_sharing enable_aggregator_routing;
    /// Of the controllers: loops that look once in a while look here when something changes, nothing is recycled, attached
    /// or routed by the manager itself, no cloud is built in, and controllers end at once.
    Controllers:
        controller_shutdown_timeout cloud_config external_cloud_volume_plugin leader_migration_config node_monitor_period namespace_sync_period attach_detach_reconcile_sync_period controller_start_interval
        route_reconciliation_period concurrent_service_syncs flex_volume_plugin_dir volume_host_cidr_denylist
        pv_recycler_pod_template_filepath_nfs pv_recycler_pod_template_filepath_hostpath pv_recycler_minimum_timeout_nfs
        pv_recycler_minimum_timeout_hostpath pv_recycler_increment_timeout_nfs pv_recycler_timeout_increment_hostpath;
        switches: disable_attach_detach_reconcile_sync configure_cloud_routes volume_host_allow_local_loopback;
    /// Of the cloud-controller-manager: machines without a cloud have no routes and no instances to look at.
    Cloud:
        node_status_update_frequency node_monitor_period route_reconciliation_period node_sync_period controller_start_interval
        concurrent_service_syncs concurrent_node_syncs cluster_cidr;
        switches: allocate_node_cidrs configure_cloud_routes use_service_account_credentials allow_untagged_cloud;
}
