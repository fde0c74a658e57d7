//! The oracle: what must come out of a case, worked out key by key in one thread with plain maps and lists.
//!
//! It knows the plan description and the rules (`docs/rules.md`), and nothing of how the system is built. Where the
//! rules leave a choice (in which order inputs of several senders meet, which of two suspended tasks goes on first, which
//! of two calls ends first), it follows the marks that tasks left, and judges each: a choice that the rules do not
//! leave is a fault. Everything else follows from the choices, and must be exactly what came out.
//!
//! # What it judges
//! - S2: per key one run at a time, epochs ascending, each sender's order (or that of `sequenced_by`) kept, inputs ahead
//!   of the frontier held back, notifications once, after their epoch's inputs and before anything later.
//! - S3: breadth-first, in plan order; a run ends with its last task.
//! - S4, S8: what each task sees, what a failure leaves, retries over flushed steps, dead letters.
//! - S10: draws differ within a run and are the same in each attempt.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};
use timely_agents::{DeadLetter, EventRecord, SentEvent, names};

use crate::plan::{Case, Emit, Feed, NOTHING, Op, PATHS, Place, Record, Then, answer, mix, number, reading, sum};
use crate::system::{Captured, When};
use crate::translate::{Mark, Shared, lock};

/// A fault, in words.
type Judged<T> = Result<T, String>;

macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}

type Memory = BTreeMap<Place, i64>;

#[derive(Clone)]
struct Event {
    name: String,
    attributes: Value,
}

struct Queued {
    event: Event,
    /// Actions that it has yet to trigger, in plan order.
    actions: VecDeque<usize>,
}

struct Task {
    label: u64,
    action: usize,
    event: Event,
    attempt: u32,
    flushed_before: u32,
    flushes: u32,
    next: usize,
    acc: i64,
    draws: usize,
    step: Step,
}

/// What a step has done so far, seen by its task alone.
#[derive(Default)]
struct Step {
    writes: Vec<(Place, Option<i64>)>,
    sent: Vec<Event>,
    outputs: Vec<Vec<i64>>,
    sides: Vec<Vec<i64>>,
    notify: Vec<u64>,
}

struct Run {
    input: Option<Record>,
    when: When,
    notified: Option<u64>,
    queue: VecDeque<Queued>,
    waiting: BTreeMap<u64, Task>,
    retrying: BTreeMap<u64, Task>,
    /// What memory goes back to if the run becomes a dead letter.
    base: Memory,
    history: Vec<Event>,
}

/// All that must come of one key.
#[derive(Default)]
struct Expected {
    outputs: Vec<(When, Emit)>,
    sides: Vec<(When, Emit)>,
    letters: Vec<(When, DeadLetter<Record>)>,
    events: Vec<(When, EventRecord)>,
}

struct KeyOracle<'a> {
    case: &'a Case,
    key: u64,
    /// By epoch and sender, in order.
    inputs: BTreeMap<u64, Vec<Vec<Record>>>,
    /// Of the epoch in progress: how much of each sender's may have been taken.
    taken: BTreeSet<Vec<usize>>,
    epoch: u64,
    /// Epochs asked for, with the event times of the runs that asked.
    notify: BTreeMap<u64, BTreeSet<u64>>,
    memory: Memory,
    sequence: u64,
    /// Draws of all runs that can be told apart, by what they must be: task and ordinal.
    draws: BTreeMap<u64, (u64, usize)>,
    expected: Expected,
    marks: VecDeque<Mark>,
}

/// Judges what a case has come to.
pub(crate) fn judge(case: &Case, shared: &Shared, captured: &Captured) -> Judged<()> {
    if let Some(fault) = lock(&shared.faults).first() {
        return Err(fault.clone());
    }
    let mut inputs: BTreeMap<u64, BTreeMap<u64, Vec<Vec<Record>>>> = BTreeMap::new();
    for (sender, feed) in case.feeds.iter().enumerate() {
        let mut epoch = 0;
        for step in feed {
            match step {
                Feed::Advance(to) => epoch = epoch.max(*to),
                Feed::Send(record) => {
                    let of_epoch = inputs.entry(record.key).or_default().entry(epoch).or_default();
                    of_epoch.resize(case.feeds.len(), Vec::new());
                    of_epoch[sender].push(record.clone());
                }
                _ => {}
            }
        }
    }
    let marks = lock(&shared.marks);
    for (key, marks) in &*marks {
        ensure!(inputs.contains_key(key), "key {key} was never fed");
        let workers: BTreeSet<usize> = marks.iter().map(|(worker, _)| *worker).collect();
        ensure!(workers.len() == 1, "S1: key {key} ran on workers {workers:?}");
    }
    for (key, inputs) in inputs {
        let marks = marks.get(&key).into_iter().flatten().map(|(_, mark)| mark.clone());
        let oracle = KeyOracle {
            case,
            key,
            inputs,
            taken: BTreeSet::new(),
            epoch: 0,
            notify: BTreeMap::new(),
            memory: Memory::new(),
            sequence: 0,
            draws: BTreeMap::new(),
            expected: Expected::default(),
            marks: marks.collect(),
        };
        let expected = oracle.interpret()?;
        let text = key.to_string();
        same(key, "outputs", &expected.outputs, &of(&captured.outputs, |emit| emit.key == key))?;
        same(key, "side outputs", &expected.sides, &of(&captured.sides, |emit| emit.key == key))?;
        let letters = of(&captured.letters, |letter| letter.key == text);
        same(key, "dead letters", &expected.letters, &letters.into_iter().map(plain).collect::<Vec<_>>())?;
        if case.observed {
            let events = of(&captured.events, |event| event.key == text);
            same(key, "observed events", &expected.events, &events)?;
        }
    }
    Ok(())
}

fn of<D: Clone>(items: &[(When, D)], mine: impl Fn(&D) -> bool) -> Vec<(When, D)> {
    items.iter().filter(|(_, item)| mine(item)).cloned().collect()
}

/// A dead letter without what the rules leave open: where a panic happened, how a decoder complains.
fn plain((when, mut letter): (When, DeadLetter<Record>)) -> (When, DeadLetter<Record>) {
    if let Some(at) = letter.error.rfind(": breaks on ").filter(|_| letter.error.starts_with("panicked")) {
        letter.error.replace_range(..at + 2, "");
    }
    if letter.error.contains("is not of its declared type") {
        letter.error = MISFIT.into();
    }
    (when, letter)
}

/// The error of an event that does not fit the type that its name declares.
const MISFIT: &str = "misfit";

fn same<D: PartialEq + std::fmt::Debug>(key: u64, what: &str, expected: &[D], found: &[D]) -> Judged<()> {
    for (at, (expected, found)) in expected.iter().zip(found).enumerate() {
        ensure!(expected == found, "key {key}: {what}, number {at}: expected\n  {expected:?}\nfound\n  {found:?}");
    }
    ensure!(
        expected.len() == found.len(),
        "key {key}: {what}: expected {} found {}; the rest: {:?} {:?}",
        expected.len(),
        found.len(),
        expected.get(found.len()),
        found.get(expected.len())
    );
    Ok(())
}

impl KeyOracle<'_> {
    fn interpret(mut self) -> Judged<Expected> {
        while let Some(Mark::Start { epoch, floor, .. }) = self.marks.front() {
            let (epoch, floor) = (*epoch, *floor);
            let mut run = self.begin(epoch, floor)?;
            let dead = self.drive(&mut run)?;
            if dead {
                self.memory = run.base;
            }
            self.memory.retain(|place, _| place.lasts());
        }
        ensure!(self.marks.is_empty(), "S3: key {}: {:?} outside of a run", self.key, self.marks.front());
        self.turn_to(u64::MAX)?;
        // Whoever takes notifications has seen all of them; nobody else has marked any.
        let told = self.actions_of(names::NOTIFICATION).is_empty() || self.notify.is_empty();
        ensure!(told, "S2: key {} was never told of {:?}", self.key, self.notify);
        Ok(self.expected)
    }

    /// Checks that all inputs of epochs below `epoch` have been taken.
    fn turn_to(&mut self, epoch: u64) -> Judged<()> {
        while let Some((least, of_epoch)) = self.inputs.first_key_value() {
            if *least >= epoch {
                break;
            }
            let all: Vec<usize> = of_epoch.iter().map(Vec::len).collect();
            let done = self.epoch == *least && self.taken.contains(&all);
            ensure!(
                done,
                "S2: key {}: inputs of epoch {least} are missing before epoch {epoch}: {of_epoch:?}, taken {:?}",
                self.key,
                self.taken
            );
            let least = *least;
            self.inputs.remove(&least);
            self.taken.clear();
        }
        // Notifications that no action takes are runs that nobody sees.
        if self.actions_of(names::NOTIFICATION).is_empty() {
            let told = self.notify.split_off(&epoch);
            self.sequence += std::mem::replace(&mut self.notify, told).len() as u64;
        }
        let missed = self.notify.range(..epoch).next();
        ensure!(missed.is_none(), "S2: key {}: not told of {missed:?} before epoch {epoch}", self.key);
        Ok(())
    }

    /// Begins the run whose first task the next mark is.
    fn begin(&mut self, epoch: u64, floor: u64) -> Judged<Run> {
        let Some(Mark::Start { name, attributes, time, sequence, .. }) = self.marks.front().cloned() else {
            return Err("a run begins with a task".into());
        };
        let key = self.key;
        let event = Event { name, attributes };
        let mut input = None;
        let mut notified = None;
        let mut time_of_input = None;
        if event.name == names::INPUT {
            self.turn_to(epoch)?;
            let record: Record = serde_json::from_value(event.attributes.clone()).map_err(|error| error.to_string())?;
            self.take(&record, epoch)?;
            let open = if self.case.sequenced { floor > epoch } else { floor >= epoch };
            ensure!(open, "S2: key {key}: epoch {epoch} is not current, the frontier is at {floor}: {record:?}");
            time_of_input = Some(if self.case.stamped { record.event } else { epoch });
            input = Some(record);
        } else {
            ensure!(event.name == names::NOTIFICATION, "S3: key {key}: a run began with {:?}", event.name);
            ensure!(event.attributes == json!({"epoch": epoch}), "key {key}: {:?} at {epoch}", event.attributes);
            self.turn_to(epoch)?;
            self.turn_to_inputs_after(epoch)?;
            let asked = self.notify.remove(&epoch);
            let asked = asked.ok_or_else(|| format!("S2: key {key} was told of {epoch}, which it did not ask for"))?;
            ensure!(floor > epoch, "S2: key {key}: epoch {epoch} has not closed, the frontier is at {floor}");
            ensure!(
                !self.case.stamped || asked.contains(&time),
                "S2: key {key}: a notification at event time {time}, asked for at {asked:?}"
            );
            notified = Some(epoch);
        }
        self.sequence += 1;
        ensure!(
            sequence == self.sequence && time_of_input.is_none_or(|of_input| of_input == time),
            "key {key}: {event} is run {sequence} at {time}, not {} at {time_of_input:?}",
            self.sequence,
            event = event.name
        );
        let run = Run {
            input,
            when: (epoch, time),
            notified,
            queue: VecDeque::new(),
            waiting: BTreeMap::new(),
            retrying: BTreeMap::new(),
            base: self.memory.clone(),
            history: Vec::new(),
        };
        let record = self.observed(&run, &event, None);
        self.expected.events.push((run.when, record));
        let mut run = run;
        let actions = self.actions_of(&event.name);
        run.queue.push_back(Queued { event, actions });
        Ok(run)
    }

    /// As `turn_to`, for inputs of the epoch itself as well.
    fn turn_to_inputs_after(&mut self, epoch: u64) -> Judged<()> {
        let notify = std::mem::take(&mut self.notify);
        let judged = self.turn_to(epoch + 1);
        self.notify = notify;
        judged
    }

    /// Takes an input of `epoch`, in an order that the rules allow.
    fn take(&mut self, record: &Record, epoch: u64) -> Judged<()> {
        let key = self.key;
        let Some(of_epoch) = self.inputs.get_mut(&epoch) else {
            return Err(format!("S2: key {key} has no input at {epoch}: {record:?}"));
        };
        if self.case.sequenced && of_epoch.len() > 1 {
            // One sender is as good as many.
            let mut all: Vec<Record> = of_epoch.drain(..).flatten().collect();
            all.sort_by_key(|record| (record.line, postcard_of(record)));
            *of_epoch = vec![all];
        } else if self.case.sequenced {
            of_epoch[0].sort_by_key(|record| (record.line, postcard_of(record)));
        }
        if self.taken.is_empty() || self.epoch != epoch {
            self.epoch = epoch;
            self.taken = BTreeSet::from([vec![0; of_epoch.len()]]);
        }
        let mut next = BTreeSet::new();
        for taken in &self.taken {
            for (sender, count) in taken.iter().enumerate() {
                if of_epoch[sender].get(*count) == Some(record) {
                    let mut taken = taken.clone();
                    taken[sender] += 1;
                    next.insert(taken);
                }
            }
        }
        ensure!(
            !next.is_empty(),
            "S2: key {key}, epoch {epoch}: {record:?} is out of order: {of_epoch:?}, taken {:?}",
            self.taken
        );
        self.taken = next;
        Ok(())
    }

    /// Follows a run to its end; whether that is a dead letter.
    fn drive(&mut self, run: &mut Run) -> Judged<bool> {
        loop {
            // Tasks that go on do so before or after tasks that start, as the marks say.
            match self.marks.front() {
                Some(Mark::Resume { label }) if run.waiting.contains_key(label) => {
                    let mut task = run.waiting.remove(label).expect("found");
                    self.marks.pop_front();
                    self.come_back(&mut task);
                    task.next += 1;
                    if self.step(run, task)? {
                        return Ok(true);
                    }
                    continue;
                }
                Some(Mark::First(_) | Mark::Start { .. }) | None => {}
                Some(mark) => return Err(format!("S3: key {}: no task goes on with {mark:?}", self.key)),
            }
            if let Some(Mark::First(first)) = self.marks.front() {
                // The mark of a select comes just before the task goes on.
                let first = *first;
                self.marks.pop_front();
                let Some(Mark::Resume { label }) = self.marks.front() else {
                    return Err("a select goes on".into());
                };
                let task = run.waiting.get_mut(label).ok_or("a select of a task that waits")?;
                let argument = if first { task.acc + 1 } else { task.acc + 2 };
                task.acc = mix(task.acc, answer(argument));
                continue;
            }
            let start = match self.marks.front() {
                // A first attempt is no retry, though it has the label of one in another run of the same identity.
                Some(Mark::Start { label, attempt: 2.., .. }) => Some(*label),
                _ => None,
            };
            if let Some(mut task) = start.and_then(|label| run.retrying.remove(&label)) {
                let Some(Mark::Start { action, attempt, name, attributes, .. }) = self.marks.pop_front() else {
                    unreachable!("looked at")
                };
                ensure!(
                    (action, attempt, &name, &attributes)
                        == (task.action, task.attempt + 1, &task.event.name, &task.event.attributes),
                    "S8: key {}: attempt {attempt} of action {action} for {name} {attributes}",
                    self.key
                );
                let (n, x) = reading(&task.event.attributes);
                task.attempt = attempt;
                task.acc = mix(n, x);
                task.next = 0;
                task.draws = 0;
                task.flushed_before = task.flushed_before.max(task.flushes);
                task.flushes = 0;
                if self.step(run, task)? {
                    return Ok(true);
                }
                continue;
            }
            let Some(front) = run.queue.front_mut() else {
                if run.waiting.is_empty() && run.retrying.is_empty() {
                    return Ok(false);
                }
                return Err(format!(
                    "S3: key {}: a run did not end: {} tasks wait, {} to be tried again, and then {:?}",
                    self.key,
                    run.waiting.len(),
                    run.retrying.len(),
                    self.marks.front()
                ));
            };
            let event = front.event.clone();
            let action = front.actions.pop_front().expect("events without actions are not queued");
            if front.actions.is_empty() {
                run.queue.pop_front();
            }
            let plan = &self.case.actions[action];
            if event.attributes["bad"] == json!(true) && plan.trigger.is_typed() {
                // The task fails before it starts, and another attempt would not help.
                if plan.then == Then::DeadLetter {
                    self.bury(run, action, 1, MISFIT.into());
                    return Ok(true);
                }
                continue;
            }
            let Some(Mark::Start { label, action: found, attempt, name, attributes, epoch, time, .. }) =
                self.marks.pop_front()
            else {
                return Err(format!("S3: key {}: action {action} never started for {}", self.key, event.name));
            };
            ensure!(
                (found, attempt, &name, &attributes, (epoch, time))
                    == (action, 1, &event.name, &event.attributes, run.when),
                "S3: key {}: action {action} was to start for {} {} at {:?}, not {found} (attempt {attempt}) for {name} \
                 {attributes} at {:?}",
                self.key,
                event.name,
                event.attributes,
                run.when,
                (epoch, time)
            );
            let (n, x) = reading(&event.attributes);
            let task = Task {
                label,
                action,
                event,
                attempt: 1,
                flushed_before: 0,
                flushes: 0,
                next: 0,
                acc: mix(n, x),
                draws: 0,
                step: Step::default(),
            };
            let fresh = self.draws.insert(label, (label, 0)).is_none();
            // Inputs of one identity make runs of one identity.
            ensure!(fresh || self.case.identified, "S10: key {}: draw {label} came twice", self.key);
            if self.step(run, task)? {
                return Ok(true);
            }
        }
    }

    /// Runs a task until it waits or ends; whether it took the run with it.
    fn step(&mut self, run: &mut Run, mut task: Task) -> Judged<bool> {
        let case = self.case;
        let program = case.program(task.action, &task.event.attributes);
        while let Some(op) = program.get(task.next) {
            match op {
                op if op.waits() => {
                    let acc = task.acc;
                    match op {
                        Op::Call => task.acc = mix(acc, answer(acc)),
                        Op::PanickingCall => task.acc = mix(acc, -2),
                        Op::SlowCall => task.acc = mix(acc, -3),
                        Op::Join => task.acc = mix(mix(acc, answer(acc + 1)), answer(acc + 2)),
                        _ => {}
                    }
                    run.waiting.insert(task.label, task);
                    return Ok(false);
                }
                Op::Flush => {
                    let step = std::mem::take(&mut task.step);
                    if task.flushes >= task.flushed_before {
                        for (place, _) in &step.writes {
                            let _ = run.base.remove(place);
                        }
                        let written: Vec<Place> = step.writes.iter().map(|(place, _)| *place).collect();
                        self.finish(run, &task, step);
                        for place in written {
                            if let Some(value) = self.memory.get(&place) {
                                run.base.insert(place, *value);
                            }
                        }
                    }
                    task.flushes += 1;
                }
                op => {
                    if let Err(error) = self.plain(run, &mut task, op)? {
                        return Ok(self.fail(run, task, error));
                    }
                }
            }
            task.next += 1;
        }
        let step = std::mem::take(&mut task.step);
        self.finish(run, &task, step);
        Ok(false)
    }

    /// Makes a step visible.
    fn finish(&mut self, run: &mut Run, task: &Task, step: Step) {
        for (place, value) in step.writes {
            match value {
                Some(value) => self.memory.insert(place, value),
                None => self.memory.remove(&place),
            };
        }
        let emit = |values| {
            let emit = Emit { key: self.key, action: task.action, values };
            (run.when, emit)
        };
        self.expected.sides.extend(step.sides.into_iter().map(emit));
        let outputs = step.outputs.len();
        self.expected.outputs.extend(step.outputs.into_iter().map(emit));
        for event in &step.sent {
            let record = self.observed(run, event, Some(task.action));
            self.expected.events.push((run.when, record));
        }
        for _ in 0..outputs {
            let event = Event { name: names::OUTPUT.into(), attributes: Value::Null };
            let record = self.observed(run, &event, Some(task.action));
            self.expected.events.push((run.when, record));
        }
        for epoch in step.notify {
            let epoch = epoch.max(run.when.0);
            self.notify.entry(epoch).or_default().insert(run.when.1);
        }
        for event in step.sent {
            run.history.push(event.clone());
            let actions = self.actions_of(&event.name);
            if !actions.is_empty() {
                run.queue.push_back(Queued { event, actions });
            }
        }
    }

    /// A step has failed: nothing of it remains. Whether the run ends.
    fn fail(&mut self, run: &mut Run, mut task: Task, error: String) -> bool {
        task.step = Step::default();
        let plan = &self.case.actions[task.action];
        if task.attempt < plan.attempts {
            run.retrying.insert(task.label, task);
            return false;
        }
        if plan.then == Then::DeadLetter {
            self.bury(run, task.action, task.attempt, error);
            return true;
        }
        false
    }

    fn bury(&mut self, run: &mut Run, action: usize, attempts: u32, error: String) {
        let sent = run.history.drain(..);
        let letter = DeadLetter {
            key: self.key.to_string(),
            epoch: run.when.0,
            sequence: self.sequence,
            action: self.case.actions[action].name.clone(),
            attempts,
            error,
            input: run.input.take(),
            sent: sent.map(|event| SentEvent { name: event.name, attributes: event.attributes }).collect(),
        };
        self.expected.letters.push((run.when, letter));
    }

    fn actions_of(&self, name: &str) -> VecDeque<usize> {
        let actions = self.case.actions.iter().enumerate();
        actions.filter(|(_, action)| action.trigger.takes(name)).map(|(index, _)| index).collect()
    }

    fn observed(&self, run: &Run, event: &Event, action: Option<usize>) -> EventRecord {
        EventRecord {
            key: self.key.to_string(),
            epoch: run.when.0,
            sequence: self.sequence,
            name: event.name.clone(),
            action: action.map(|action| self.case.actions[action].name.clone()),
            attributes: event.attributes.clone(),
        }
    }

    /// Does an operation that does not wait; the inner result is the action's.
    fn plain(&mut self, run: &Run, task: &mut Task, op: &Op) -> Judged<Result<(), String>> {
        let acc = task.acc;
        let view = self.view(task);
        let load = |place: &Place| view.get(place).copied();
        match op {
            Op::Load(place) => task.acc = mix(acc, load(place).unwrap_or(NOTHING)),
            Op::Store(place) => match refusal(&view, *place) {
                Some(refused) => task.acc = mix(acc, refused),
                None => task.step.writes.push((*place, Some(acc))),
            },
            Op::Add(place) => match refusal(&view, *place) {
                Some(refused) => task.acc = mix(acc, refused),
                None => {
                    let sum = sum(load(place).unwrap_or(0), acc);
                    task.step.writes.push((*place, Some(sum)));
                    task.acc = sum;
                }
            },
            Op::Forget(place) => {
                let gone: Vec<Place> = view.keys().filter(|other| lies_at_or_below(**other, *place)).copied().collect();
                if path_of(*place).is_some() {
                    task.acc = mix(acc, gone.len() as i64);
                    task.step.writes.extend(gone.into_iter().map(|place| (place, None)));
                } else {
                    // To put nothing is a write, also where nothing was.
                    task.step.writes.push((*place, None));
                }
            }
            Op::Take(place) => {
                let taken = load(place);
                task.acc = mix(acc, taken.unwrap_or(NOTHING));
                if taken.is_some() {
                    task.step.writes.push((*place, None));
                }
            }
            Op::List => task.acc = mix(acc, listing(&view)),
            Op::Output => task.step.outputs.push(vec![acc]),
            Op::Dump => {
                let places = [Place::A, Place::B, Place::Text, Place::Sense].into_iter();
                let places =
                    places.chain((0..PATHS.len()).map(Place::Path)).chain((0..PATHS.len()).map(Place::SensePath));
                let mut values: Vec<i64> = places.map(|place| load(&place).unwrap_or(NOTHING)).collect();
                values.push(listing(&view));
                task.step.outputs.push(values);
            }
            Op::Side => task.step.sides.push(vec![acc]),
            Op::Send(kind) => {
                let (n, _) = reading(&task.event.attributes);
                if n > 0 {
                    task.step.sent.push(Event { name: kind.name().into(), attributes: kind.attributes(n - 1, acc) });
                }
            }
            Op::Notify(delta) => {
                let epoch = run.when.0.saturating_add_signed(*delta);
                let Some(Mark::Ended(ended)) = self.marks.pop_front() else {
                    return Err("notify_at answers".into());
                };
                if run.notified.is_some_and(|notified| epoch <= notified) {
                    ensure!(ended.is_none(), "S2: an epoch cannot be asked for from its own notification");
                    task.acc = mix(acc, 1);
                } else if let Some(floor) = ended {
                    ensure!(
                        floor == u64::MAX && run.notified.is_some(),
                        "S6: key {}: notify_at says that the input has ended, which is at {floor}",
                        self.key
                    );
                    task.acc = mix(acc, 2);
                } else {
                    task.step.notify.push(epoch);
                }
            }
            Op::Fail(attempts) if task.attempt <= *attempts && acc % 2 == 0 => {
                return Ok(Err(format!("refuses {acc}")));
            }
            Op::FailAlways(attempts) if task.attempt <= *attempts => return Ok(Err(format!("refuses {acc}"))),
            Op::Panic(attempts) if task.attempt <= *attempts && acc % 2 == 0 => {
                return Ok(Err(format!("breaks on {acc}")));
            }
            Op::Random => {
                for _ in 0..2 {
                    let Some(Mark::Draw(value)) = self.marks.pop_front() else {
                        return Err("a draw gives a number".into());
                    };
                    task.draws += 1;
                    let place = (task.label, task.draws);
                    let before = *self.draws.entry(value).or_insert(place);
                    ensure!(
                        before == place || task.draws.is_multiple_of(2),
                        "S10: key {}: draw {value} is that of {before:?} and of {place:?}",
                        self.key
                    );
                }
            }
            _ => {}
        }
        Ok(Ok(()))
    }

    /// The writes of a step come back into sight when its task goes on. A path is a value or a parent, never both:
    /// what another task has written above or below meanwhile goes, as if the step had taken it away.
    fn come_back(&self, task: &mut Task) {
        let mut view = self.memory.clone();
        let mut writes = Vec::new();
        for (place, value) in std::mem::take(&mut task.step.writes) {
            if let (Some(value), Some((tree, path))) = (value, path_of(place)) {
                let in_the_way: Vec<Place> = view
                    .keys()
                    .copied()
                    .filter(|other| {
                        path_of(*other)
                            .is_some_and(|(of, other)| of == tree && (is_below(other, path) || is_below(path, other)))
                    })
                    .collect();
                for other in in_the_way {
                    view.remove(&other);
                    writes.push((other, None));
                }
                view.insert(place, value);
            } else {
                match value {
                    Some(value) => view.insert(place, value),
                    None => view.remove(&place),
                };
            }
            writes.push((place, value));
        }
        task.step.writes = writes;
    }

    /// What a task sees: finished steps, and its own writes over them.
    fn view(&self, task: &Task) -> Memory {
        let mut view = self.memory.clone();
        for (place, value) in &task.step.writes {
            match value {
                Some(value) => view.insert(*place, *value),
                None => view.remove(place),
            };
        }
        view
    }
}

fn postcard_of(record: &Record) -> Vec<u8> {
    postcard::to_allocvec(record).expect("a record can be encoded")
}

/// The tree that a place is in, and its path there.
fn path_of(place: Place) -> Option<(bool, &'static str)> {
    match place {
        Place::Path(path) => Some((false, PATHS[path])),
        Place::SensePath(path) => Some((true, PATHS[path])),
        _ => None,
    }
}

fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.starts_with('.'))
}

fn lies_at_or_below(place: Place, parent: Place) -> bool {
    match (path_of(place), path_of(parent)) {
        (Some((tree, path)), Some((of, parent))) => tree == of && (path == parent || is_below(path, parent)),
        _ => place == parent,
    }
}

/// Why a value cannot stand at a path, as the number that tasks take for it.
fn refusal(view: &Memory, place: Place) -> Option<i64> {
    let (tree, path) = path_of(place)?;
    let others = || view.keys().filter_map(|other| path_of(*other)).filter(|(of, _)| *of == tree);
    if others().any(|(_, other)| is_below(other, path)) {
        Some(1_001)
    } else if others().any(|(_, other)| is_below(path, other)) {
        Some(1_002)
    } else {
        None
    }
}

fn listing(view: &Memory) -> i64 {
    let mut sum = 0;
    for tree in [false, true] {
        let paths = || view.keys().filter_map(|p| path_of(*p)).filter(|(of, _)| *of == tree).map(|(_, path)| path);
        sum = paths().fold(sum, |sum, path| mix(sum, number(path)));
        let at_a = paths().filter(|path| *path == "a" || is_below(path, "a"));
        sum = at_a.fold(sum, |sum, path| mix(sum, number(path)));
        sum = mix(sum, i64::from(paths().any(|path| path == "d" || is_below(path, "d"))));
    }
    sum
}
