use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).expect("a time")
}

fn sample(seconds: i64, nano_cores: Option<u64>, core_nanos: Option<u64>, working_set: Option<u64>) -> Sample {
    Sample { time: Some(at(seconds)), nano_cores, core_nanos, working_set }
}

#[test]
fn a_rate_comes_from_two_counts_of_the_same_life() {
    let before = sample(0, None, Some(1_000_000_000), None);
    let cases = [
        ("ten seconds, half a core", sample(10, None, Some(6_000_000_000), None), Some(500_000_000)),
        ("idle", sample(10, None, Some(1_000_000_000), None), Some(0)),
        ("too near for whole seconds", sample(4, None, Some(6_000_000_000), None), None),
        ("the same sample again", before.clone(), None),
        ("an earlier one", sample(-10, None, Some(6_000_000_000), None), None),
        ("too far", sample(61, None, Some(6_000_000_000), None), None),
        ("another life", sample(10, None, Some(5), None), None),
        ("no count", sample(10, None, None, None), None),
        ("no time", Sample { time: None, ..sample(10, None, Some(6_000_000_000), None) }, None),
    ];
    for (what, after, want) in cases {
        assert_eq!(rate(&after, &before), want, "{what}");
    }
}

#[test]
fn the_rate_of_the_kubelet_goes_before_one_of_our_own() {
    let before = sample(0, None, Some(0), Some(1));
    let both = sample(15, Some(7), Some(15_000_000_000), Some(4096));
    let want = |nano_cores, window| {
        Some(Measured { timestamp: at(15), window: Duration::from_secs(window), usage: Usage { nano_cores, bytes: 4096 } })
    };
    assert_eq!(measure(&both, Some(&before)), want(7, 15));
    assert_eq!(measure(&both, None), want(7, 10), "the window is a guess without an earlier sample");
    assert_eq!(measure(&Sample { nano_cores: None, ..both.clone() }, Some(&before)), want(1_000_000_000, 15));
    assert_eq!(measure(&Sample { nano_cores: None, ..both.clone() }, None), None);
    assert_eq!(measure(&Sample { working_set: None, ..both.clone() }, Some(&before)), None);
    assert_eq!(measure(&Sample { time: None, ..both }, Some(&before)), None);
}

#[test]
fn a_pod_is_measured_with_all_of_its_containers_or_not_at_all() {
    let measured = |seconds, nano_cores| {
        Some(Measured { timestamp: at(seconds), window: Duration::from_secs(10), usage: Usage { nano_cores, bytes: 1024 } })
    };
    let containers = |all: &[(&str, Option<Measured>)]| all.iter().map(|(name, m)| ((*name).to_owned(), *m)).collect::<KnownContainers>();
    let running = ["a".to_owned(), "b".to_owned()];
    let pod = measure_pod(&containers(&[("a", measured(5, 2)), ("b", measured(3, 1))]), &running).expect("both are known");
    assert_eq!(pod.timestamp, at(3), "as of the earliest");
    let usage = |nano_cores| Usage { nano_cores, bytes: 1024 };
    assert_eq!(pod.containers, [("a".to_owned(), usage(2)), ("b".to_owned(), usage(1))]);
    assert!(measure_pod(&containers(&[("a", measured(5, 2))]), &running).is_none(), "one that runs is missing");
    assert!(measure_pod(&containers(&[("a", measured(5, 2))]), &running[..1]).is_some(), "one that has ended is not");
    assert!(measure_pod(&containers(&[("a", measured(5, 2)), ("b", None)]), &running).is_none(), "one has no rate");
    assert!(measure_pod(&KnownContainers::new(), &[]).is_none());
}

#[test]
fn a_second_look_fills_in_what_the_first_did_not_tell() {
    let reading = |seconds, old: u64, new: Option<u64>| Reading {
        node: sample(seconds, Some(old), Some(1), Some(1024)),
        pods: [(
            ("a".to_owned(), "p".to_owned()),
            (
                "u".to_owned(),
                [
                    ("old".to_owned(), sample(seconds, Some(old), Some(1), Some(1024))),
                    ("new".to_owned(), sample(seconds, new, Some(1), Some(1024))),
                ]
                .into(),
            ),
        )]
        .into(),
    };
    let (before, first, second) = (reading(0, 5, None), reading(3, 6, None), reading(4, 7, Some(8)));
    let mut known = Known::of(&first, Some(&before));
    assert_eq!(known.pod("a", "p", &[]), None);
    known.fill(&Known::of(&second, Some(&first)));
    let containers = &known.pods[&("a".to_owned(), "p".to_owned())];
    let told = |name: &str| containers[name].map(|m| (m.usage.nano_cores, m.window.as_secs()));
    assert_eq!((told("old"), told("new")), (Some((6, 3)), Some((8, 1))));
    assert_eq!(known.node.map(|m| m.usage.nano_cores), Some(6));
}

#[test]
fn a_second_look_is_worth_it_when_only_the_rate_is_missing() {
    let reading = |node: Sample, uid: &str, container: Sample| Reading {
        node,
        pods: [(("a".to_owned(), "p".to_owned()), (uid.to_owned(), [("c".to_owned(), container)].into()))].into(),
    };
    let rated = || sample(10, Some(1), Some(1), Some(1));
    let counted = |seconds| sample(seconds, None, Some(1), Some(1));
    assert!(!would_gain(&reading(rated(), "u", rated()), None));
    assert!(would_gain(&reading(counted(10), "u", rated()), None));
    assert!(would_gain(&reading(rated(), "u", counted(10)), None));
    assert!(!would_gain(&reading(rated(), "u", sample(10, None, None, Some(1))), None), "nothing is counted at all");
    assert!(!would_gain(&reading(rated(), "u", counted(10)), Some(&reading(rated(), "u", counted(0)))), "there is one from before");
    assert!(would_gain(&reading(rated(), "v", counted(10)), Some(&reading(rated(), "u", counted(0)))), "that was another pod");
}

#[test]
fn durations_are_written_as_go_does() {
    let cases = [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (500_000_000, "500ms"),
        (10_000_000_000, "10s"),
        (10_200_000_000, "10.2s"),
        (15_064_000_001, "15.064000001s"),
        (60_000_000_000, "1m0s"),
        (3_725_250_000_000, "1h2m5.25s"),
    ];
    for (nanos, want) in cases {
        assert_eq!(go_duration(Duration::from_nanos(nanos)), want);
    }
}
