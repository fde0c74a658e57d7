//! The main job: what it must put out, by an interpreter that is no part of it.

mod advisor;
mod cli;
mod reference;

use sha2::{Digest, Sha256};

use reference::{Reference, generate, interpret};

const JANUARY: &str = include_str!("../../examples/data/flights-2013-01.csv");

fn sha256(text: &str) -> String {
    format!("{:x}", Sha256::digest(text))
}

fn advised(reference: &Reference, advice: &str) -> usize {
    reference.by_advice.get(advice).copied().unwrap_or_default()
}

/// The sums that hold for every file.
fn assert_sums(reference: &Reference) {
    assert_eq!(reference.rows, reference.skipped + reference.cancelled + reference.flown);
    assert_eq!(reference.alerts.len(), reference.by_advice.values().sum::<usize>());
    let reported: usize = reference
        .report
        .lines()
        .skip(1)
        .map(|line| line.rsplit(',').next().and_then(|count| count.parse::<usize>().ok()).expect("a count"))
        .sum();
    assert_eq!(reference.alerts.len(), reported);
}

#[test]
fn january_file_is_the_one_its_readme_names() {
    assert_eq!(sha256(JANUARY), "a07b68f99deaefb99fde8f8b21fdc075217f72117a052339f348b1b3ec928985");
    assert!(include_str!("../../examples/data/README.md").contains(&sha256(JANUARY)));
}

#[test]
fn january_has_the_known_rows_and_alerts() {
    let january = interpret(JANUARY);
    assert_sums(&january);
    assert_eq!(january.rows, 27_004);
    assert_eq!((january.flown, january.cancelled, january.skipped), (26_483, 366, 155));
    assert_eq!(january.alerts.len(), 1_584);
    assert_eq!(advised(&january, "shorten turnaround"), 861);
    assert_eq!(advised(&january, "rebook connections"), 572);
    assert_eq!(advised(&january, "swap aircraft"), 151);
    assert_eq!(january.longest_streak, 8);
    assert_eq!(sha256(&january.sorted_lines()), "1920438b1839f06e07a37949747dad00af585f98db4d4372d6a4cbdf5604a4e5");
}

#[test]
fn january_report_has_the_known_rows() {
    let january = interpret(JANUARY);
    assert_eq!(january.report.lines().count(), 1 + 236);
    assert_eq!(sha256(&january.report), "9d2ec40172e512f4360e450f6f7418004a39c5c23b64e23c7440569bb65a2fd4");
}

#[test]
fn streak_counts_delays_in_a_row_and_forgets_unknown_arrivals() {
    let columns = "year,month,day,dep_time,dep_delay,arr_delay,carrier,flight,tailnum,origin,dest";
    let rows = [
        ("1", "20", "30", "no leg before"),
        ("1", "15", "15", "streak 1: both at the threshold"),
        ("NA", "NA", "NA", "cancelled: changes nothing"),
        ("1", "75", "NA", "streak 2; its arrival is unknown"),
        ("1", "90", "40", "after an unknown arrival: streak 0"),
        ("1", "14", "40", "departs in time: streak 0"),
        ("1", "16", "14", "streak 1"),
        ("1", "99", "99", "the leg before came in time"),
    ];
    let rows = rows.map(|(dep_time, dep_delay, arr_delay, _)| {
        format!("2013,1,1,{dep_time},{dep_delay},{arr_delay},UA,7,N1,EWR,BOS")
    });
    let text = format!("{columns}\n{}\n", rows.join("\n"));
    let alerts: Vec<(u64, i64, i64)> = interpret(&text)
        .alerts
        .iter()
        .map(|line| {
            let alert: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let field = |name: &str| alert[name].as_i64().expect(name);
            (field("streak") as u64, field("dep_delay"), field("prev_arr_delay"))
        })
        .collect();
    assert_eq!(alerts, [(1, 15, 30), (2, 75, 15), (1, 16, 40)]);
}

#[test]
fn generated_file_has_all_kinds_of_rows() {
    for seed in 0..20 {
        let text = generate(seed, 3_000);
        assert_eq!(text, generate(seed, 3_000), "seed {seed}");
        assert_ne!(text, generate(seed + 1, 3_000), "seed {seed}");
        assert!(!text.starts_with("year,"), "seed {seed}: columns stand in the usual order");
        for part in ["NA", "\"\"", "second line", "2012-02-29", "2012-03-"] {
            assert!(text.contains(part), "seed {seed}: no {part:?}");
        }
        let reference = interpret(&text);
        assert_sums(&reference);
        assert_eq!(reference.rows, 3_000, "seed {seed}");
        assert!(reference.skipped > 50 && reference.cancelled > 50, "seed {seed}: {reference:?}");
        assert!(reference.longest_streak > 3, "seed {seed}");
        for advice in ["shorten turnaround", "rebook connections", "swap aircraft"] {
            assert!(advised(&reference, advice) > 10, "seed {seed}: {advice}");
        }
        // Days ascend, or the file would not be valid.
        let dates: Vec<&str> = reference.report.lines().skip(1).map(|line| &line[..10]).collect();
        assert!(dates.is_sorted() && dates.first() != dates.last(), "seed {seed}");
    }
}
