//! The run that a key has not finished, as JSON: how it began, and its journal.

use serde_json::{Map, Value, json};

use super::cbor;
use super::formats::Formats;
use crate::call::place_of;
use crate::format::hex;
use crate::journal::{Beginning, End, Entry, Name, Packed, Sent};
use crate::memory::{Place, Write};

/// The run of a fact, and its entries.
pub(super) fn show(formats: &Formats, run: &[u8], entries: &[&[u8]]) -> Value {
    let Some((time, bytes)) = formats.timed(run) else {
        return json!({"bytes": hex(run), "journal": entries.iter().map(|entry| hex(entry)).collect::<Vec<_>>()});
    };
    let Ok(beginning) = postcard::from_bytes::<Beginning>(&bytes) else {
        return json!({"time": time, "bytes": hex(&bytes)});
    };
    json!({
        "time": time,
        "identity": beginning.identity,
        "notifying": beginning.notifying,
        "input": beginning.input.map(|bytes| formats.input(&bytes)),
        "writes": writes(formats, beginning.writes),
        "queue": beginning.queue.into_iter().map(|event| sent(formats, event)).collect::<Vec<_>>(),
        "journal": entries.iter().map(|bytes| entry(formats, bytes)).collect::<Vec<_>>(),
    })
}

/// An entry of a journal.
pub(super) fn entry(formats: &Formats, bytes: &[u8]) -> Value {
    match postcard::from_bytes(bytes) {
        Ok(Entry::Turn { task, now, given }) => {
            json!({"turn": {"task": name(task), "now": now, "results": given.iter().map(|end| result(end)).collect::<Vec<_>>()}})
        }
        Ok(Entry::Step { task, writes: written, sent: events, over }) => {
            json!({"step": {
                "task": name(task),
                "writes": writes(formats, written),
                "sent": events.into_iter().map(|event| sent(formats, event)).collect::<Vec<_>>(),
                "over": over,
            }})
        }
        Ok(Entry::Again { task, flushed, deadline }) => {
            json!({"again": {"task": name(task), "flushed": flushed, "deadline": deadline}})
        }
        Ok(Entry::Afresh { task, flushed, deadline, asks }) => {
            json!({"again": {"task": name(task), "flushed": flushed, "deadline": deadline, "asks": asks}})
        }
        Ok(Entry::Given { task, end, at }) => {
            json!({"given": {"task": name(task), "now": at, "result": result(&end)}})
        }
        Ok(entry @ (Entry::Left { .. } | Entry::LeftFrom { .. })) => {
            let (task, (ordinal, asked)) = entry.left().expect("a call has left");
            let (place, number) = place_of(ordinal);
            let mut shown = json!({"task": name(task), "wait": place, "number": number});
            if let Some(asked) = asked {
                shown["call"] = asked.name.clone().into();
                shown["digest"] = format!("{:016x}", asked.digest).into();
            }
            json!({"left": shown})
        }
        Ok(Entry::Dropped { kept }) => json!({"dropped": {"kept": kept}}),
        Ok(Entry::Returned { task, ordinal }) => json!({"returned": {"task": name(task), "wait": ordinal}}),
        Ok(Entry::Action { name, version }) => json!({"action": {"name": name, "version": version}}),
        Ok(Entry::Kept(_)) => json!({"kept": {}}),
        Ok(Entry::Put(puts)) => {
            let sides = puts.sides.iter().map(|(name, values)| (name.clone(), kept(values))).collect();
            json!({"put": {"outputs": kept(&puts.outputs), "sides": Value::Object(sides)}})
        }
        Err(_) => json!({"bytes": hex(bytes)}),
    }
}

/// What was put out; null where that is not kept.
fn kept(values: &[Option<String>]) -> Value {
    let value = |text: &Option<String>| {
        text.as_ref().map_or(Value::Null, |text| serde_json::from_str(text).unwrap_or(Value::Null))
    };
    values.iter().map(value).collect()
}

/// A signal that is kept.
pub(super) fn signal(number: u64, bytes: &[u8]) -> Value {
    match postcard::from_bytes::<(String, Vec<u8>)>(bytes) {
        Ok((name, payload)) => {
            let value = serde_json::from_slice(&payload).unwrap_or_else(|_| Value::String(hex(&payload)));
            json!({"number": number, "signal": name, "value": value})
        }
        Err(_) => json!({"number": number, "bytes": hex(bytes)}),
    }
}

/// An event that is scheduled.
pub(super) fn scheduled(formats: &Formats, number: u64, bytes: &[u8]) -> Value {
    let timed = formats.timed(bytes);
    let rest = timed.and_then(|(time, rest)| Some((time, postcard::from_bytes::<(u64, Vec<u8>)>(&rest).ok()?)));
    let Some((time, (due, event))) = rest else { return json!({"number": number, "bytes": hex(bytes)}) };
    let (event, value) = match postcard::from_bytes(&event) {
        Ok(packed) => unpacked(formats, packed),
        Err(_) => (String::new(), Value::String(hex(&event))),
    };
    json!({"number": number, "time": time, "due": due, "event": event, "value": value})
}

/// A task: where its event was sent, and its attempt.
fn name(task: Name) -> Value {
    json!({"path": format!("{:016x}", task.path), "attempt": task.attempt})
}

fn result(End { ordinal, asked, given, .. }: &End) -> Value {
    let call = if asked.name.is_empty() { Value::Null } else { Value::String(asked.name.clone()) };
    let (wait, number) = place_of(*ordinal);
    let mut shown = match given {
        Ok(bytes) => json!({"wait": wait, "call": call, "value": bytes.as_deref().map(hex)}),
        Err(failure) => json!({"wait": wait, "call": call, "error": failure.to_string()}),
    };
    // Attempts after the first, and the pauses before them.
    if number > 0 {
        shown["number"] = number.into();
    }
    shown
}

fn sent(formats: &Formats, sent: Sent) -> Value {
    let (event, value) = unpacked(formats, sent.event);
    json!({"event": event, "value": value, "path": format!("{:016x}", sent.path), "next": sent.next})
}

/// The name of an event.
pub(super) fn event_name(event: &Packed) -> String {
    match event {
        Packed::Input => "input".to_owned(),
        Packed::Typed(name, _) | Packed::Dynamic(name, _) => name.clone(),
    }
}

/// The name of an event, and what it says.
pub(super) fn unpacked(formats: &Formats, event: Packed) -> (String, Value) {
    match event {
        Packed::Input => ("input".to_owned(), Value::Null),
        Packed::Typed(name, bytes) => {
            let value = formats.event(&name, &bytes);
            (name, value)
        }
        Packed::Dynamic(name, attributes) => {
            let value = serde_json::from_str(&attributes).unwrap_or(Value::String(attributes));
            (name, value)
        }
    }
}

/// What was written, by slot or path; null where it was removed.
pub(super) fn writes(formats: &Formats, writes: Vec<Write>) -> Value {
    let show = |(place, value): Write| match place {
        Place::Slot(id) => formats.slot(id, value.as_deref()),
        Place::Path { sensory, path } => {
            let path = if sensory { format!("{path} (sensory)") } else { path };
            (path, value.map_or(Value::Null, |bytes| cbor::show(&bytes)))
        }
    };
    Value::Object(writes.into_iter().map(show).collect::<Map<_, _>>())
}
