//! Waiting for conditions instead of sleeping and hoping.

use std::time::{Duration, Instant};

/// Asks `probe` until it says `Ok`, and returns that. After `timeout` the error tells `what` was waited for and what
/// the last probe said. A probe that hangs is cut off by the timeout as well.
pub async fn wait_for<T>(what: &str, timeout: Duration, mut probe: impl AsyncFnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(10);
    let mut last: Option<anyhow::Error> = None;
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = last.or_else(|| Some(anyhow::anyhow!("the probe did not return"))),
        }
        let left = timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            let why = last.map_or_else(String::new, |error| format!("{error:#}"));
            anyhow::bail!("timed out after {timeout:?} waiting for {what}; last: {why}");
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(250));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_condition_or_the_reason_comes_back() {
        let mut left = 3;
        let got = wait_for("a countdown", Duration::from_secs(5), async || {
            left -= 1;
            anyhow::ensure!(left == 0, "{left} left");
            Ok("done")
        });
        assert_eq!(got.await.expect("counts down"), "done");
        let error = wait_for("the impossible", Duration::from_millis(40), async || -> anyhow::Result<()> { anyhow::bail!("still no") });
        let text = error.await.expect_err("times out").to_string();
        assert!(text.contains("waiting for the impossible") && text.contains("still no"), "{text}");
    }
}
