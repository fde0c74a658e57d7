//! What every [`ActionStateStore`] must do, as tests that any implementation runs.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{ActionStateStore, Marker, Note};

/// A store as a generation opens it, with the marker that it took.
pub type Opened = (Arc<dyn ActionStateStore>, Marker);

/// Checks an implementation. `open` opens the one store of this check as the generation of that number, from 1 on, and takes
/// its marker; what older generations have put by then is what it finds.
///
/// # Panics
/// When the contract is broken.
pub fn check(open: &mut dyn FnMut(u64) -> Opened) {
    let (first, marker) = open(1);
    assert!(rebuilt(&first, &marker, 1, 0..8).is_empty(), "a new store is empty");
    for (n, note) in
        [note(1, 0, 5, "a", "1"), note(1, 7, 5, "b", "2"), note(1, 0, 6, "a", "3"), note(2, 0, 6, "a", "4")]
            .into_iter()
            .enumerate()
    {
        put(&first, note, n);
    }
    assert_eq!(texts(&first.get(1, 0, b"a").unwrap_or_else(|e| panic!("{e}"))), ["1", "3"]);

    // The next generation finds all of it, by component and group; an older one is not heard any more.
    let (second, marker) = open(2);
    put(&first, note(1, 0, 9, "a", "late"), 0);
    assert_eq!(rebuilt(&second, &marker, 1, 0..4), ["1", "3"]);
    assert_eq!(rebuilt(&second, &marker, 1, 4..8), ["2"]);
    assert_eq!(rebuilt(&second, &marker, 2, 0..8), ["4"]);
    put(&second, note(1, 0, 7, "a", "5"), 0);
    put(&second, note(1, 0, 1, "a", "6"), 0);
    assert!(texts(&second.get(1, 0, b"a").unwrap_or_else(|e| panic!("{e}"))).ends_with(&["5".into(), "6".into()]));

    // What is put together is durable together, in order.
    let order = Arc::new(Mutex::new(Vec::new()));
    for n in 0..200 {
        let order = Arc::clone(&order);
        let done = move || order.lock().unwrap_or_else(PoisonError::into_inner).push(n);
        second.put(note(3, n % 8, 8, "c", &n.to_string()), Box::new(done));
    }
    second.prune(Some(7));
    second.close();
    let order = order.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(order.len() == 200 && order.is_sorted(), "close waits for all, and they come in order");
    second.put(note(3, 0, 9, "c", "after the end"), Box::new(|| panic!("a closed store takes nothing")));

    // Generations ascend; of what is pruned nothing has to be there, of what is not all.
    let (third, marker) = open(3);
    let found = rebuilt(&third, &marker, 1, 0..8);
    let kept: Vec<&str> = found.iter().map(String::as_str).filter(|text| ["5"].contains(text)).collect();
    assert_eq!(kept, ["5"], "what is not pruned is there: {found:?}");
    let at = |text: &str| found.iter().position(|found| found == text);
    assert!(at("3").is_none_or(|older| at("5").is_some_and(|newer| older < newer)), "generations ascend: {found:?}");
    assert_eq!(rebuilt(&third, &marker, 3, 0..8).len(), 200);
    third.prune(None);
    third.close();
}

fn note(component: u32, group: u32, epoch: u64, key: &str, text: &str) -> Note {
    Note { component, group, epoch, key: key.into(), bytes: text.into() }
}

fn put(store: &Arc<dyn ActionStateStore>, note: Note, n: usize) {
    let (tell, told) = std::sync::mpsc::channel();
    store.put(
        note,
        Box::new(move || {
            let _ = tell.send(());
        }),
    );
    let durable = told.recv_timeout(Duration::from_mins(2));
    assert!(durable.is_ok(), "note {n} becomes durable");
}

fn rebuilt(store: &Arc<dyn ActionStateStore>, marker: &Marker, component: u32, groups: Range<u32>) -> Vec<String> {
    let mut notes = Vec::new();
    let read = store.rebuild(marker, component, groups.clone(), &mut |note| {
        assert!(note.component == component && groups.contains(&note.group), "not asked for: {note:?}");
        notes.push(note);
    });
    read.unwrap_or_else(|error| panic!("{error}"));
    notes.sort_by_key(|note| note.group);
    texts(&notes)
}

fn texts(notes: &[Note]) -> Vec<String> {
    notes.iter().map(|note| String::from_utf8_lossy(&note.bytes).into_owned()).collect()
}
