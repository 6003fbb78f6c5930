//! What becomes of leases, and what nobody is told of them.

use super::*;

fn key(upstream: &str, task: Option<&str>) -> Key {
    let behalf = task.map(|task| Behalf {
        user: "ann".to_owned(),
        issuer: "countersign".to_owned(),
        task: Some(task.to_owned()),
        agents: vec!["a".to_owned()],
    });
    Key { upstream: UpstreamName::new(upstream).unwrap(), behalf }
}

fn lease(key: &Key, secret: &str, until: Option<i64>) -> Arc<Lease> {
    let until = until.map(|until| Timestamp::from_second(until).unwrap());
    Arc::new(Lease {
        id: "lease_1".into(),
        key: key.clone(),
        name: HeaderName::from_static("authorization"),
        value: header("Bearer ", secret).unwrap(),
        expires: until,
        until,
    })
}

#[test]
fn a_task_that_ends_takes_its_leases_along_and_no_others() {
    let leases = Leases::default();
    let keys = [key("up", Some("t-1")), key("other", Some("t-1")), key("up", Some("t-2")), key("up", None)];
    let (_tell, done) = watch::channel(None);
    {
        let mut slots = leases.inner.slots();
        for key in &keys {
            slots.insert(key.clone(), Slot::Have(lease(key, "hunter2hunter2", None), None));
        }
        let fetched = key("third", Some("t-1"));
        slots.insert(fetched, Slot::Fetching(7, done));
    }
    leases.end_task("t-1");
    let left: Vec<Key> = leases.inner.slots().keys().cloned().collect();
    let mut expected = keys[2..].to_vec();
    expected.sort();
    assert_eq!(left, expected);
    // what was being fetched for it comes too late
    let fetched = key("third", Some("t-1"));
    let late = leases.inner.fetched(&fetched, 7, Ok((lease(&fetched, "hunter2hunter2", None), None)));
    assert!(late.is_err() && !leases.inner.slots().contains_key(&fetched));
}

#[test]
fn a_lease_shows_its_value_in_no_text() {
    let key = key("up", None);
    let lease = lease(&key, "hunter2hunter2", None);
    let (name, value) = lease.header();
    assert!(!format!("{lease:?} {name:?} {value:?}").contains("hunter2"));
    let concealed = lease.conceal("`Bearer hunter2hunter2` is bad, hunter2 is not".into());
    assert_eq!(concealed, "`Bearer <secret>` is bad, hunter2 is not");
}

#[test]
fn room_is_made_by_dropping_what_ends_first() {
    let mut slots = BTreeMap::new();
    for number in 0..MOST {
        let key = key("up", Some(&format!("t-{number}")));
        let until = i64::try_from(1_000_000 - number).unwrap();
        slots.insert(key.clone(), Slot::Have(lease(&key, "hunter2hunter2", Some(until)), None));
    }
    make_room(&mut slots).unwrap();
    assert_eq!(slots.len(), MOST - 1);
    assert!(!slots.contains_key(&key("up", Some(&format!("t-{}", MOST - 1)))));
}
