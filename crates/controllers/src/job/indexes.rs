//! Completion indexes as `status.completedIndexes` writes them: `1,3-5,7`.

use std::collections::BTreeSet;

/// Reads intervals; indexes from `below` on no longer count.
pub fn parse(text: &str, below: i32) -> BTreeSet<i32> {
    let interval = |part: &str| -> Option<(i32, i32)> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.split(',').filter_map(interval).flat_map(|(first, last)| first..=last.min(below - 1)).collect()
}

/// Writes intervals; two neighbours stay apart, as upstream does (`1,2` but `1-3`).
pub fn format(set: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in set {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let shown = runs.iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_survive_a_round_trip() {
        for text in ["", "0", "1,3-5,7", "0-9", "1,2", "2,4,6"] {
            assert_eq!(format(&parse(text, 100)), text);
        }
        assert_eq!(format(&parse("0-9", 5)), "0-4");
        assert_eq!(format(&[1, 2, 3, 5, 6].into()), "1-3,5,6");
    }
}
