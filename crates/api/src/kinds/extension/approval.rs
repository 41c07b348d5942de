//! Who may define resources in Kubernetes' own groups: a CRD there names the review that approved it, or says that none did.

/// The annotation that tells.
pub const ANNOTATION: &str = "api-approved.kubernetes.io";
const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

/// What the annotation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// Where the API was approved.
    Approved,
    /// That it was not.
    Bypassed,
    /// Nothing.
    Missing,
    /// Something else.
    Invalid,
}

/// Whether a group is Kubernetes' own.
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|own| group.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// Scheme and host, as far as they matter here.
fn is_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let schemed = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    schemed && !host.is_empty() && !text.contains(|c: char| c.is_ascii_control() || c == ' ')
}

/// What an annotation says, and the sentence about it. An absent one is empty.
pub fn of(annotation: &str) -> (Approval, String) {
    if annotation.is_empty() {
        (Approval::Missing, format!("protected groups must have approval annotation {ANNOTATION:?}, {SEE}"))
    } else if annotation.starts_with("unapproved") {
        (Approval::Bypassed, format!("not approved: {annotation:?}"))
    } else if is_url(annotation) {
        (Approval::Approved, format!("approved in {annotation}"))
    } else {
        let why = "with either a URL or a reason starting with \"unapproved\"";
        (Approval::Invalid, format!("protected groups must have approval annotation {ANNOTATION:?} {why}, {SEE}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_groups_of_kubernetes_itself_are_protected() {
        for (group, own) in
            [("k8s.io", true), ("gateway.networking.k8s.io", true), ("x.kubernetes.io", true), ("notk8s.io", false), ("example.com", false)]
        {
            assert_eq!(is_protected(group), own, "{group}");
        }
    }

    #[test]
    fn an_approval_is_a_url_or_says_that_there_is_none() {
        let cases = [
            ("", Approval::Missing),
            ("unapproved, experimental-only", Approval::Bypassed),
            ("https://github.com/kubernetes/kubernetes/pull/78458", Approval::Approved),
            ("yes", Approval::Invalid),
            ("https://", Approval::Invalid),
        ];
        for (text, wanted) in cases {
            assert_eq!(of(text).0, wanted, "{text}");
        }
    }
}
