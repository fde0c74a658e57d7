//! The allocator of benches of what is kept: runs that wait and notes of their calls are many small things, made by one thread
//! and partly freed by another. Baselines have it as well.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;
