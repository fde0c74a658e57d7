//! S6: open, runs, end of input and drain, close; resources last. Also when a job fails or never begins.

use std::time::Duration;

use timely::dataflow::operators::vec::ToStream;
use timely_agents::testing::Harness;
use timely_agents::{Agent, AgentStream, Error, Place, Plan};

use crate::support::{NoteOnDrop, Notes, Pair};

fn noting(notes: &Notes, open: impl Fn() -> Result<(), Error> + Send + Sync + 'static) -> Plan<Pair, i64> {
    let mut agent = Agent::new("noting");
    let at = |what: &'static str| {
        let notes = notes.clone();
        move |place: Place| notes.add(format!("{what} {}/{}", place.worker, place.peers))
    };
    let (opened, drained, closed) = (at("open"), at("drained"), at("close"));
    agent.on_open(move |place| {
        opened(place);
        open()
    });
    agent.on_drained(drained);
    agent.on_close(closed);
    for name in ["first", "second"] {
        let made = notes.clone();
        agent.resource(name, move || {
            made.add(format!("made {name}"));
            Ok(NoteOnDrop(made.clone(), if name == "first" { "dropped first" } else { "dropped second" }))
        });
    }
    let notes = notes.clone();
    agent.on_input_async("run", async move |(_, value), ctx| {
        notes.add(format!("run {value}"));
        ctx.resource::<NoteOnDrop>("first")?;
        ctx.resource::<NoteOnDrop>("second")?;
        let _held = NoteOnDrop(notes.clone(), "future dropped");
        if *value == 2 {
            ctx.sleep(Duration::from_secs(1)).await;
        }
        if *value < 0 { Err(Error::new("no")) } else { Ok(()) }
    });
    agent.build().unwrap()
}

#[test]
fn life_of_an_agent_goes_in_order() {
    let notes = Notes::default();
    let mut test = Harness::new(&noting(&notes, || Ok(())), |pair: &Pair| pair.0).unwrap();
    assert_eq!(notes.take(), ["open 0/1"]);
    test.push(0, (1, 1));
    test.push(0, (1, 2));
    test.run();
    test.end();
    test.run();
    assert_eq!(
        notes.take(),
        ["run 1", "made first", "made second", "future dropped", "run 2"],
        "resources are made once, when first asked for; the end of input waits for work"
    );
    test.pass(Duration::from_secs(1));
    assert_eq!(notes.take(), ["future dropped", "drained 0/1", "close 0/1", "dropped second", "dropped first"]);
    drop(test);
    assert_eq!(notes.take(), [] as [&str; 0], "once");
}

#[test]
fn failed_job_is_closed_in_the_same_order() {
    let notes = Notes::default();
    let mut test = Harness::new(&noting(&notes, || Ok(())), |pair: &Pair| pair.0).unwrap();
    test.push(0, (1, 2));
    test.push(0, (2, -1));
    test.run();
    assert!(test.failure().is_some());
    assert_eq!(
        notes.take(),
        [
            "open 0/1",
            "run 2",
            "made first",
            "made second",
            "run -1",
            "future dropped",
            "future dropped",
            "close 0/1",
            "dropped second",
            "dropped first"
        ],
        "what runs is given up before what it uses"
    );
}

#[test]
fn agent_that_is_dropped_on_its_way_is_closed() {
    let notes = Notes::default();
    let mut test = Harness::new(&noting(&notes, || Ok(())), |pair: &Pair| pair.0).unwrap();
    test.push(0, (1, 2));
    test.run();
    notes.take();
    drop(test);
    assert_eq!(notes.take(), ["future dropped", "close 0/1", "dropped second", "dropped first"]);
}

#[test]
fn agent_that_cannot_open_is_closed_and_says_why() {
    for panics in [false, true] {
        let notes = Notes::default();
        let plan = noting(&notes, move || if panics { panic!("no network") } else { Err(Error::new("no network")) });
        let failure = Harness::new(&plan, |pair: &Pair| pair.0).unwrap_err();
        assert_eq!((failure.agent.as_str(), failure.action.as_str()), ("noting", "open"));
        assert!(failure.message.ends_with("no network"), "{}", failure.message);
        assert_eq!(notes.take(), ["open 0/1", "close 0/1"]);
    }
}

#[test]
fn dataflow_that_is_never_finished_closes_its_agents() {
    let notes = Notes::default();
    let plan = noting(&notes, || Ok(()));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        timely::execute_directly(move |worker| {
            worker.dataflow::<u64, _, _>(|scope| {
                vec![(1, 1)].to_stream(scope).agent(|pair| &pair.0, &plan);
                // Silent: the default hook is not told.
                std::panic::resume_unwind(Box::new("construction fails"))
            })
        })
    }));
    assert!(result.is_err());
    assert_eq!(notes.take(), ["open 0/1", "close 0/1"]);
}

#[test]
fn hooks_and_resources_are_each_workers_own() {
    let notes = Notes::default();
    let plan = noting(&notes, || Ok(()));
    timely::execute(timely::Config::process(3), move |worker| {
        let plan = plan.clone();
        let index = worker.index() as u64;
        worker.dataflow::<u64, _, _>(|scope| {
            let inputs = (0..30).map(move |n| (index * 100 + n, 1));
            inputs.to_stream(scope).agent(|pair| &pair.0, &plan);
        });
    })
    .unwrap()
    .join();
    let notes = notes.take();
    let count = |note: &str| notes.iter().filter(|n| n.starts_with(note)).count();
    assert_eq!((count("open"), count("drained"), count("close")), (3, 3, 3));
    assert_eq!((count("run"), count("made first"), count("dropped first")), (90, 3, 3));
    for worker in 0..3 {
        let own: Vec<&str> = notes.iter().filter_map(|note| note.strip_suffix(&format!(" {worker}/3"))).collect();
        assert_eq!(own, ["open", "drained", "close"]);
    }
}

#[test]
fn hook_that_panics_hinders_no_other() {
    let notes = Notes::default();
    let mut agent = Agent::<Pair, i64>::new("a");
    let closed = notes.clone();
    agent.on_drained(|_| panic!("drained"));
    agent.on_close(move |_| {
        closed.add("close");
        panic!("close")
    });
    let made = notes.clone();
    agent.resource("r", move || Ok(NoteOnDrop(made.clone(), "dropped")));
    agent.on_input("use", |_, ctx| ctx.resource::<NoteOnDrop>("r").map(drop));
    let mut test = Harness::new(&agent.build().unwrap(), |pair: &Pair| pair.0).unwrap();
    test.push(0, (1, 1));
    test.end();
    test.run();
    assert!(test.is_closed());
    assert_eq!(notes.take(), ["close", "dropped"]);
}
