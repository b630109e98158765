use std::time::{Duration, Instant};

use super::*;

/// Knows a few names.
struct Zone;

impl Resolver for Zone {
    fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let addresses: &[&str] = match name {
            "login.example" => &["192.0.2.1"],
            "control.example" => &["192.0.2.2", "2001:db8::2"],
            "secret.example" | "half.example" | "wrong.example" | "none.example" => &["192.0.2.9"],
            "empty.example" => &[],
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(addresses.iter().map(|ip| ip.parse().unwrap()).collect())
    }

    fn texts(&self, name: &str) -> io::Result<Vec<String>> {
        let texts: &[&str] = match name {
            "half.txt" => &["v=spf1", "50", "101", "-1"],
            "wrong.txt" => &["fifty"],
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(texts.iter().map(ToString::to_string).collect())
    }
}

fn table(names: &[&str], unpublished: &[&str]) -> Arc<Table> {
    let table = Table::empty();
    table.refresh(&config(names, unpublished), &Zone);
    table
}

fn config(names: &[&str], unpublished: &[&str]) -> BootstrapDns {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    BootstrapDns { names: owned(names), unpublished: owned(unpublished) }
}

/// Body and what was counted, of a client that is told when half of all are, or is not.
fn ask(table: &Table, name: &str, lucky: bool) -> (String, Vec<Count>) {
    let mut counts = Vec::new();
    let client = IpAddr::from([1, 2, 3, if lucky { 4 } else { 6 }]);
    let body = table.answer(Some(name).filter(|name| !name.is_empty()), Some(client), |count| counts.push(count));
    assert_eq!(counts.remove(0), Count::Requests);
    (body, counts)
}

#[test]
fn published_names_are_told_to_everybody() {
    let table = table(&["login.example", "gone.example"], &[]);
    let body = "{\n\t\"login.example\": [\n\t\t\"192.0.2.1\"\n\t]\n}";
    assert_eq!(ask(&table, "", true), (body.into(), vec![]));
    assert_eq!(ask(&table, "login.example", true), (body.into(), vec![Count::PublishedHits]));
    assert_eq!(ask(&table, "gone.example", true), (body.into(), vec![Count::UnpublishedMisses]));
    assert_eq!(table.asked(), 2);
}

#[test]
fn nothing_to_tell() {
    assert_eq!(ask(&table(&[], &[]), "", true), (String::new(), vec![]));
    assert_eq!(ask(&table(&["gone.example"], &[]), "", true).0, "null", "derper's word for it");
    let empty = table(&["empty.example"], &[]);
    assert_eq!(
        ask(&empty, "empty.example", true),
        ("{\n\t\"empty.example\": []\n}".into(), vec![Count::PublishedMisses])
    );
}

#[test]
fn addresses_take_turns() {
    let first: HashSet<String> = (0..64).map(|_| ask(&table(&["control.example"], &[]), "", true).0).collect();
    assert_eq!(first.len(), 2, "{first:?}");
}

#[test]
fn unpublished_names_are_told_to_who_asks_and_is_among_the_share() {
    let entries = ["secret.example", "half.example/half.txt", "wrong.example/wrong.txt", "none.example/no.txt"];
    let table = table(&["login.example"], &entries);
    let alone = |name: &str| format!("{{\n\t\"{name}\": [\n\t\t\"192.0.2.9\"\n\t]\n}}");
    let all = ask(&table, "", true).0;
    assert!(!all.contains("secret") && all.contains("login.example"), "{all}");
    assert_eq!(ask(&table, "secret.example", false), (alone("secret.example"), vec![Count::UnpublishedHits]));
    assert_eq!(ask(&table, "half.example", true), (alone("half.example"), vec![Count::UnpublishedHits]));
    let missed = vec![Count::UnpublishedHits, Count::UnpublishedPercentMisses, Count::UnpublishedMisses];
    assert_eq!(ask(&table, "half.example", false), (all.clone(), missed.clone()));
    assert_eq!(ask(&table, "wrong.example", true), (all.clone(), missed.clone()));
    assert_eq!(ask(&table, "none.example", true), (all, missed));
}

#[test]
fn what_strangers_ask_for_is_bounded() {
    let table = table(&[], &[]);
    for n in 0..=limits::BOOTSTRAP_NAMES_REMEMBERED {
        assert_eq!(table.asked(), n as u64);
        ask(&table, &format!("{n}.example"), true);
    }
    assert_eq!(table.asked(), 0, "begun again");
    ask(&table, &"x".repeat(254), true);
    assert_eq!(table.asked(), 0);
}

/// With the system's own resolver, on its own thread.
#[test]
fn it_looks_by_itself_and_ends_with_its_owner() {
    let table = Table::start(&config(&["localhost"], &[])).unwrap();
    let weak = Arc::downgrade(&table);
    let began = Instant::now();
    while !ask(&table, "", true).0.contains("\"localhost\": [\n\t\t\"") {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", ask(&table, "", true));
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(table);
    // The thread holds it only while it looks.
    while weak.upgrade().is_some() {
        assert!(began.elapsed() < Duration::from_secs(60), "somebody keeps it");
        std::thread::sleep(Duration::from_millis(5));
    }
}
