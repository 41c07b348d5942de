//! Names of signals, as images and pods write them.

use ferrokube_cri::v1::Signal;

use crate::sys;

/// The signal that stops a container: what the pod says, else what the image says, else SIGTERM.
pub fn stop_signal(pod: Signal, image: &str) -> i32 {
    let named = match pod {
        Signal::RuntimeDefault => parse(image),
        named => parse(named.as_str_name()),
    };
    named.unwrap_or(libc::SIGTERM)
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `SIGRTMINPLUS3`, ...
fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=sys::sigrtmax()).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset = offset.trim_start_matches("PLUS").trim_start_matches('+');
        return real_time(sys::sigrtmin(), offset);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        let offset = offset.trim_start_matches("MINUS").trim_start_matches('-');
        return real_time(sys::sigrtmax(), offset).map(|number| 2 * sys::sigrtmax() - number);
    }
    let name = match name {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        other => other,
    };
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

fn real_time(base: i32, offset: &str) -> Option<i32> {
    if offset.is_empty() { Some(base) } else { offset.parse::<i32>().ok().map(|offset| base + offset) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_of_a_signal() {
        let cases = [("SIGTERM", 15), ("quit", 3), ("9", 9), ("SIGRTMIN+3", sys::sigrtmin() + 3), ("RTMAX-1", sys::sigrtmax() - 1)];
        for (text, number) in cases {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        assert_eq!(parse("SIGNOTHING"), None);
        assert_eq!(parse("0"), None);
    }

    #[test]
    fn the_pod_comes_before_the_image() {
        assert_eq!(stop_signal(Signal::RuntimeDefault, ""), 15);
        assert_eq!(stop_signal(Signal::RuntimeDefault, "SIGQUIT"), 3);
        assert_eq!(stop_signal(Signal::Sigusr1, "SIGQUIT"), 10);
        assert_eq!(stop_signal(Signal::Sigrtminplus3, ""), sys::sigrtmin() + 3);
        for number in 1..=65 {
            let signal = Signal::try_from(number).expect("1..=65 are signals");
            assert!(parse(signal.as_str_name()).is_some(), "{}", signal.as_str_name());
        }
    }
}
