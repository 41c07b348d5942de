//! Which capabilities a container gets.

use ferrokube_cri::v1::Capability;

use super::SpecError;

/// What a container has when nothing is said: the set that containerd and Docker agree on.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The bounding set, by name.
///
/// `ALL` comes first whichever list it is in, then what is added, then what is dropped.
pub fn resolve(wanted: Option<&Capability>, privileged: bool) -> Result<Vec<String>, SpecError> {
    if privileged {
        return Ok(all());
    }
    let none = Capability::default();
    let wanted = wanted.unwrap_or(&none);
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set: Vec<String> = DEFAULT.map(str::to_owned).to_vec();
    if wanted.add_capabilities.iter().any(is_all) {
        set = all();
    }
    if wanted.drop_capabilities.iter().any(is_all) {
        set.clear();
    }
    for name in wanted.add_capabilities.iter().filter(|name| !is_all(name)) {
        let name = canonical(name)?;
        if !set.contains(&name) {
            set.push(name);
        }
    }
    for name in wanted.drop_capabilities.iter().filter(|name| !is_all(name)) {
        let name = canonical(name)?;
        set.retain(|held| *held != name);
    }
    Ok(set)
}

/// Those that are inherited by programs without privileges of their own; always a part of the bounding set.
pub fn ambient(wanted: Option<&Capability>, bounding: &[String]) -> Result<Vec<String>, SpecError> {
    let names = wanted.map(|wanted| wanted.add_ambient_capabilities.as_slice()).unwrap_or_default();
    let names: Vec<String> = names.iter().map(|name| canonical(name)).collect::<Result<_, _>>()?;
    Ok(names.into_iter().filter(|name| bounding.contains(name)).collect())
}

/// Every capability that this build knows; the node's own limit is applied where the process is confined.
fn all() -> Vec<String> {
    let mut names: Vec<String> = caps::all().into_iter().map(|capability| capability.to_string()).collect();
    names.sort_unstable();
    names
}

fn canonical(name: &str) -> Result<String, SpecError> {
    let upper = name.to_ascii_uppercase();
    let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    match name.parse::<caps::Capability>() {
        Ok(_) => Ok(name),
        Err(_) => Err(SpecError::Invalid(format!("unknown capability {name:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(add: &[&str], drop: &[&str]) -> Vec<String> {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        let wanted = Capability { add_capabilities: names(add), drop_capabilities: names(drop), ..Default::default() };
        resolve(Some(&wanted), false).expect("known names")
    }

    #[test]
    fn all_comes_first_then_added_then_dropped() {
        assert_eq!(resolve(None, false).expect("default"), DEFAULT);
        assert_eq!(resolved(&["NET_ADMIN"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert!(resolved(&["sys_time"], &[]).contains(&"CAP_SYS_TIME".to_owned()));
        assert!(!resolved(&["NET_RAW"], &["CAP_NET_RAW"]).contains(&"CAP_NET_RAW".to_owned()));
        let without_mknod = resolved(&["ALL"], &["MKNOD"]);
        assert!(without_mknod.len() > 30 && !without_mknod.contains(&"CAP_MKNOD".to_owned()));
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        let wanted = Capability { add_capabilities: vec!["NET_MAGIC".into()], ..Default::default() };
        assert!(resolve(Some(&wanted), false).is_err());
    }
}
