//! The threads that open chunks: a few, with two queues. What somebody waits for goes before what may be wanted later.
//!
//! They are plain threads, because opening a chunk is work and would hold up those who wait on the runtime. What is given to them is bounded by
//! those who give it: readers who wait, and windows of reading ahead.

use crossbeam_channel::{Receiver, Sender, TryRecvError, select, unbounded};
use std::thread::JoinHandle;

/// Something to do.
pub(super) type Task = Box<dyn FnOnce() + Send>;

/// How soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Somebody waits.
    Now,
    /// Somebody will probably ask.
    Soon,
}

/// A fixed number of threads. They end when the pool is dropped, after what was begun.
pub(super) struct Pool {
    now: Option<Sender<Task>>,
    soon: Option<Sender<Task>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts the threads.
    pub(super) fn new(threads: usize) -> std::io::Result<Pool> {
        let (now, now_out) = unbounded();
        let (soon, soon_out) = unbounded();
        let start = |number| {
            let (now, soon) = (now_out.clone(), soon_out.clone());
            let name = format!("chunks-{number}");
            std::thread::Builder::new().name(name).spawn(move || work(&now, &soon))
        };
        let threads = (0..threads).map(start).collect::<std::io::Result<Vec<_>>>()?;
        Ok(Pool { now: Some(now), soon: Some(soon), threads })
    }

    /// Has it done. A task that panics ends nothing but itself.
    pub(super) fn submit(&self, urgency: Urgency, task: Task) {
        let queue = match urgency {
            Urgency::Now => &self.now,
            Urgency::Soon => &self.soon,
        };
        if let Some(queue) = queue {
            // The threads hold the other end for as long as the pool lives.
            let _sent = queue.send(task);
        }
    }
}

fn work(now: &Receiver<Task>, soon: &Receiver<Task>) {
    loop {
        let task = match now.try_recv() {
            Ok(task) => Ok(task),
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => select! {
                recv(now) -> task => task,
                recv(soon) -> task => task,
            },
        };
        let Ok(task) = task else { return };
        let _panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.now = None;
        self.soon = None;
        let here = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // The last one who holds the pool may be one of its own threads.
            if thread.thread().id() != here {
                let _panicked = thread.join();
            }
        }
    }
}
