//! Results of calls as what they are, which only the program knows.

use serde_json::Value;

use super::super::replay::CallResult;
use super::RunJournal;
use super::tree::Task;

impl RunJournal {
    /// Puts results of calls in their places as what they are: `results` are those of this run, done again
    /// (`inspect::replay`). What is not among them stays bytes.
    pub fn show_results(&mut self, results: &[CallResult]) {
        for task in &mut self.tasks {
            task.show_results(results);
        }
    }
}

impl Task {
    fn show_results(&mut self, results: &[CallResult]) {
        for attempt in &mut self.attempts {
            for wait in &mut attempt.waits {
                for made in wait.tries.iter_mut().filter(|made| !made.pause) {
                    let place = (&*self.path, attempt.attempt, wait.wait, made.attempt);
                    let here = |of: &&CallResult| (&*of.task, of.task_attempt, of.wait, of.attempt) == place;
                    if let (Some(given), Some(Value::Object(result))) = (results.iter().find(here), &mut made.result) {
                        result.insert("value".to_owned(), given.value.clone());
                    }
                }
            }
        }
        self.tasks.iter_mut().for_each(|task| task.show_results(results));
    }
}
