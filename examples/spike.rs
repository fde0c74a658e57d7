//! spike
#![allow(clippy::all, clippy::pedantic)]
use std::time::Instant;
use timely::dataflow::{InputHandle, ProbeHandle};
use timely::dataflow::operators::{Probe, Inspect};
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::channels::pact::Pipeline;
use timely::container::CapacityContainerBuilder;
use timely_agents::prelude::*;
fn main() {
    let keys: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let mut agent = Agent::<u64, (u64, u64)>::new("counter");
    let seen = agent.memory::<u64>("seen");
    agent.on_input("count", move |value, ctx| {
        let n = ctx.update(seen, |n| { *n += 1; *n });
        ctx.output((*value, n));
        Ok(())
    });
    let plan = agent.build().unwrap();
    timely::execute_directly(move |worker| {
        let mut input = InputHandle::<u64, CapacityContainerBuilder<Vec<u64>>>::new();
        let probe = ProbeHandle::new();
        worker.dataflow::<u64, _, _>(|scope| {
            let out = input.to_stream(scope).agent(|v| v, &plan);
            let mut sum = 0u64;
            out.unary(Pipeline, "sum", move |_, _| {
                move |i, o: &mut timely::dataflow::operators::generic::OutputBuilderSession<u64, CapacityContainerBuilder<Vec<()>>>| {
                    let _ = &o;
                    i.for_each(|_, d: &mut Vec<(u64, u64)>| for (_, c) in d.drain(..) { sum = sum.wrapping_add(c) });
                    std::hint::black_box(&sum);
                }
            }).probe_with(&probe);
        });
        let n = 10_000_000u64; let batch = 100_000;
        for pass in 0..4u64 {
            let t0 = Instant::now();
            let mut e = *input.time();
            let mut i = 0;
            while i < n {
                let end = (i + batch).min(n);
                let mut buf: Vec<u64> = Vec::with_capacity(1024);
                while i < end {
                    buf.clear();
                    for j in 0..1024.min(end - i) { let mut z = (pass * n + i + j).wrapping_mul(0x9e3779b97f4a7c15); z ^= z >> 32; buf.push(z % keys); }
                    i += 1024.min(end - i);
                    input.send_batch(&mut buf);
                }
                e += 1;
                input.advance_to(e);
                while probe.less_than(&e) { worker.step(); }
            }
            println!("{keys}: {:.2} M/s", n as f64 / t0.elapsed().as_secs_f64() / 1e6);
        }
    });
}
