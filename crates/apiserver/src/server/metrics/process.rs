//! What the kernel knows of this process, under the names that every Prometheus client uses.

use super::head;
use std::fmt::Write;

/// Ticks per second in `/proc`: part of the kernel's interface, the same on every machine.
const TICKS: f64 = 100.0;

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The number behind a word at the start of a line.
fn number(text: &str, word: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(word)).and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok())
}

/// Seconds of processor time, and the moment of the start.
fn times(stat: &str, boot: f64) -> Option<(f64, f64)> {
    // The name of the program may hold spaces; it ends with the last parenthesis. Fields are counted from the third.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |at: usize| fields.get(at - 3).and_then(|f| f.parse::<f64>().ok());
    Some(((field(14)? + field(15)?) / TICKS, boot + field(22)? / TICKS))
}

/// Writes them; what the kernel does not tell is left out.
pub fn write(out: &mut String) {
    let status = read("/proc/self/status");
    let times = times(&read("/proc/self/stat"), number(&read("/proc/stat"), "btime ").unwrap_or_default());
    let memory = |word: &str| number(&status, word).map(|kibibytes| kibibytes * 1024.0);
    let open = std::fs::read_dir("/proc/self/fd").map(|entries| entries.count() as f64).ok();
    let all = [
        ("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", times.map(|t| t.0)),
        ("process_max_fds", "gauge", "Maximum number of open file descriptors.", number(&read("/proc/self/limits"), "Max open files")),
        ("process_open_fds", "gauge", "Number of open file descriptors.", open),
        ("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", memory("VmRSS:")),
        ("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", times.map(|t| t.1)),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", memory("VmSize:")),
    ];
    for (name, kind, help, value) in all {
        if let Some(value) = value {
            head(out, name, kind, help);
            let _ = writeln!(out, "{name} {value}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_behind_the_name_of_the_program() {
        let stat = "12 (a) b) S 1 1 1 0 -1 0 0 0 0 0 250 150 0 0 20 0 1 0 1000 0 0";
        assert_eq!(times(stat, 5.0), Some((4.0, 15.0)));
        assert_eq!(times("", 5.0), None);
    }

    #[test]
    fn this_process_is_described() {
        let mut out = String::new();
        write(&mut out);
        for name in ["process_cpu_seconds_total", "process_open_fds", "process_resident_memory_bytes", "process_start_time_seconds"] {
            assert!(out.contains(&format!("\n{name} ")), "{name} in {out}");
        }
    }
}
