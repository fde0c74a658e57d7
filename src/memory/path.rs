//! Dynamic memory: values by dotted path, beside slots.
//!
//! Paths form a tree. A path either holds a value or is a parent of longer ones, never both; parents exist
//! while they have children. Values stay as they are in memory and are encoded only to become facts.
//!
//! # Invariants
//! - No stored path is a proper prefix of another (`a` and `a.b` are never both values).
//! - Writes merge by path: two tasks that write different paths never lose each other's writes.

use std::any::{Any, type_name};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::rc::Rc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use timely_agents_operators::fact::{FactColumn, KeyWriter, What};
use timely_agents_operators::keys::KeyId;

use super::Place;
use super::column::Column;
use super::slot::Remembered;

/// What is wrong with a use of a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The path has an empty part.
    #[error("path {0:?}: every part between dots needs a name")]
    Empty(String),
    /// A value is to be written where others lie below.
    #[error("path {path:?} is an object, {child:?} lies below it; remove it first")]
    IsObject {
        /// The path.
        path: String,
        /// A value below it.
        child: String,
    },
    /// A value is to be written below another.
    #[error("path {path:?} lies below {parent:?}, which holds a value; remove it first")]
    BelowValue {
        /// The path.
        path: String,
        /// The value above it.
        parent: String,
    },
    /// The value is of another type than asked for.
    #[error("path {path:?} holds a {holds}, not a {asked}")]
    OtherType {
        /// The path.
        path: String,
        /// The type that it holds.
        holds: &'static str,
        /// The type asked for.
        asked: &'static str,
    },
}

/// A value of any type that can be remembered. Its bytes are CBOR, which tells what it is: nobody declares paths.
trait Value: Any {
    fn encode(&self) -> Result<Vec<u8>, String>;
    fn type_name(&self) -> &'static str;
}

impl<V: Remembered> Value for V {
    fn encode(&self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        ciborium::into_writer(self, &mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    fn type_name(&self) -> &'static str {
        type_name::<V>()
    }
}

/// A value as a checkpoint had it: its type shows when it is asked for.
struct Restored(Vec<u8>);

impl Value for Restored {
    fn encode(&self) -> Result<Vec<u8>, String> {
        Ok(self.0.clone())
    }

    fn type_name(&self) -> &'static str {
        "value of another type"
    }
}

type Stored = Rc<dyn Value>;
type Tree = BTreeMap<Rc<str>, Stored>;
/// A place and what it held, or was to hold.
type Placed = (Rc<str>, Option<Stored>);

/// The column of dynamic memory. Only keys that use it have a tree.
pub(crate) struct PathColumn {
    sensory: bool,
    trees: HashMap<KeyId, Tree, FixedState>,
    log: Vec<Placed>,
    stale: HashMap<KeyId, BTreeSet<Rc<str>>, FixedState>,
}

impl PathColumn {
    pub(crate) fn new(sensory: bool) -> Self {
        PathColumn { sensory, trees: HashMap::default(), log: Vec::new(), stale: HashMap::default() }
    }

    pub(crate) fn get<V: Remembered>(&self, key: KeyId, path: &str) -> Result<Option<V>, PathError> {
        let Some(value) = self.trees.get(&key).and_then(|tree| tree.get(path)) else {
            return Ok(None);
        };
        let any = &**value as &dyn Any;
        let found = any.downcast_ref::<V>().cloned();
        let restored = || any.downcast_ref::<Restored>().and_then(|restored| ciborium::from_reader(&*restored.0).ok());
        let wrong =
            || PathError::OtherType { path: path.into(), holds: (**value).type_name(), asked: type_name::<V>() };
        found.or_else(restored).map(Some).ok_or_else(wrong)
    }

    /// Whether a value can stand at `path`.
    pub(crate) fn check(&self, key: KeyId, path: &str) -> Result<(), PathError> {
        if path.split('.').any(str::is_empty) {
            return Err(PathError::Empty(path.into()));
        }
        let Some(tree) = self.trees.get(&key) else {
            return Ok(());
        };
        if let Some(child) = below(tree, path).next() {
            return Err(PathError::IsObject { path: path.into(), child: child.to_string() });
        }
        for (dot, _) in path.match_indices('.') {
            if tree.contains_key(&path[..dot]) {
                return Err(PathError::BelowValue { path: path.into(), parent: path[..dot].into() });
            }
        }
        Ok(())
    }

    /// Writes a value at a path that [`PathColumn::check`] has passed.
    pub(crate) fn set<V: Remembered>(&mut self, key: KeyId, path: &str, value: V) {
        self.write(key, (path.into(), Some(Rc::new(value))));
    }

    fn write(&mut self, key: KeyId, (path, value): Placed) {
        let old = self.place(key, Rc::clone(&path), value);
        self.log.push((path, old));
    }

    /// Puts a value, or none, at a path; what was there.
    fn place(&mut self, key: KeyId, path: Rc<str>, value: Option<Stored>) -> Option<Stored> {
        match value {
            Some(value) => self.trees.entry(key).or_default().insert(path, value),
            None => {
                let tree = self.trees.get_mut(&key)?;
                let old = tree.remove(&path);
                if tree.is_empty() {
                    self.trees.remove(&key);
                }
                old
            }
        }
    }

    /// The values at and below `path`.
    pub(crate) fn at_and_below(&self, key: KeyId, path: &str) -> Vec<Rc<str>> {
        let Some(tree) = self.trees.get(&key) else {
            return Vec::new();
        };
        let own = tree.get_key_value(path).map(|(path, _)| Rc::clone(path));
        own.into_iter().chain(below(tree, path).cloned()).collect()
    }

    /// The values above and below `path`, beside which none can stand at `path`.
    fn in_the_way(&self, key: KeyId, path: &str) -> Vec<Rc<str>> {
        let Some(tree) = self.trees.get(&key) else {
            return Vec::new();
        };
        let above = path.match_indices('.').filter_map(|(dot, _)| tree.get_key_value(&path[..dot]));
        above.map(|(path, _)| path).chain(below(tree, path)).cloned().collect()
    }

    /// Every path that holds a value, in order.
    pub(crate) fn all(&self, key: KeyId) -> Vec<Rc<str>> {
        self.trees.get(&key).map_or_else(Vec::new, |tree| tree.keys().cloned().collect())
    }

    /// Takes away the value at one path.
    pub(crate) fn remove_one(&mut self, key: KeyId, path: Rc<str>) {
        self.write(key, (path, None));
    }

    fn note(&mut self, key: KeyId, path: Rc<str>, facts: bool) {
        if self.sensory {
            self.place(key, path, None);
        } else if facts {
            self.stale.entry(key).or_default().insert(path);
        }
    }
}

fn below<'a>(tree: &'a Tree, path: &str) -> impl Iterator<Item = &'a Rc<str>> {
    let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
    let from: Rc<str> = prefix.as_str().into();
    tree.range((Bound::Included(from), Bound::Unbounded))
        .map(|(path, _)| path)
        .take_while(move |p| p.starts_with(&prefix))
}

fn encode(path: &str, value: &Stored) -> Vec<u8> {
    (**value).encode().unwrap_or_else(|error| panic!("path {path:?} holds a value that cannot be encoded: {error}"))
}

fn placed(boxed: Box<dyn Any>) -> Placed {
    *boxed.downcast::<Placed>().expect("an entry of this column")
}

impl Column for PathColumn {
    fn admit(&mut self, _: usize) {}

    fn undo(&mut self, key: KeyId) {
        let (path, old) = self.log.pop().expect("a write is logged");
        self.place(key, path, old);
    }

    fn swap_out(&mut self, key: KeyId) -> Box<dyn Any> {
        let (path, old) = self.log.pop().expect("a write is logged");
        let written = self.place(key, Rc::clone(&path), old);
        Box::new((path, written))
    }

    fn swap_in(&mut self, key: KeyId, written: Box<dyn Any>) -> usize {
        let (path, value) = placed(written);
        let before = self.log.len();
        if value.is_some() {
            // Another task may have written above or below meanwhile: the step that ends last wins.
            for other in self.in_the_way(key, &path) {
                self.write(key, (other, None));
            }
        }
        self.write(key, (path, value));
        self.log.len() - before
    }

    fn take_log(&mut self) -> Box<dyn Any> {
        Box::new(self.log.pop().expect("a write is logged"))
    }

    fn restore(&mut self, key: KeyId, replaced: Box<dyn Any>) {
        let (path, old) = placed(replaced);
        self.place(key, path, old);
    }

    fn same_place(&self, a: &dyn Any, b: &dyn Any) -> bool {
        match (a.downcast_ref::<Placed>(), b.downcast_ref::<Placed>()) {
            (Some((a, _)), Some((b, _))) => a == b,
            _ => false,
        }
    }

    fn end(&mut self, key: KeyId, facts: bool) {
        let (path, _) = self.log.pop().expect("a write is logged");
        self.note(key, path, facts);
    }

    fn end_taken(&mut self, key: KeyId, replaced: Box<dyn Any>, facts: bool) {
        self.note(key, placed(replaced).0, facts);
    }

    fn is_plain(&self) -> bool {
        false
    }

    fn clear_log(&mut self) {
        self.log.clear();
    }

    fn touch(&self, _: &[KeyId]) {}

    fn changed(&mut self, _: &[KeyId]) {
        debug_assert!(false, "the logs of paths are not kept: they are not plain");
    }

    fn facts(&mut self, key: KeyId, held: &[&dyn Any], facts: &mut KeyWriter) {
        if self.stale.is_empty() {
            return;
        }
        for path in self.stale.remove(&key).unwrap_or_default() {
            let what = What::Path(path.to_string());
            let held = held.iter().filter_map(|held| held.downcast_ref::<Placed>()).find(|(held, _)| *held == path);
            let value = match held {
                Some((_, old)) => old.as_ref(),
                None => self.trees.get(&key).and_then(|tree| tree.get(&path)),
            };
            match value {
                Some(value) => facts.put_bytes(&what, &encode(&path, value)),
                None => facts.retire(&what),
            }
        }
    }

    fn has_facts(&self) -> bool {
        !self.stale.is_empty()
    }

    fn facts_of(&mut self, keys: &[KeyId], facts: &mut FactColumn) {
        for key in keys {
            facts.key(|facts| self.facts(*key, &[], facts));
        }
    }

    fn place(&self, entry: &dyn Any) -> Place {
        let path = entry.downcast_ref::<Placed>().map_or_else(String::new, |(path, _)| path.to_string());
        Place::Path { sensory: self.sensory, path }
    }

    fn has(&self, place: &Place) -> bool {
        matches!(place, Place::Path { sensory, .. } if *sensory == self.sensory)
    }

    fn encoded(&self, key: KeyId, place: &Place) -> Option<Vec<u8>> {
        let Place::Path { path, .. } = place else { return None };
        let value = self.trees.get(&key)?.get(path.as_str())?;
        Some(encode(path, value))
    }

    fn rewrite(&mut self, key: KeyId, place: &Place, value: Option<&[u8]>) -> Result<(), String> {
        let Place::Path { path, .. } = place else { return Err(format!("{place:?} is no path")) };
        let value = value.map(|bytes| Rc::new(Restored(bytes.to_vec())) as Stored);
        self.write(key, (path.as_str().into(), value));
        Ok(())
    }

    fn values(&self, key: KeyId, each: &mut dyn FnMut(What, Vec<u8>)) {
        for (path, value) in self.trees.get(&key).into_iter().flatten() {
            each(What::Path(path.to_string()), encode(path, value));
        }
    }

    fn is(&self, what: &What) -> bool {
        !self.sensory && matches!(what, What::Path(_))
    }

    fn load(&mut self, key: KeyId, what: &What, value: Option<&[u8]>) -> Result<(), String> {
        let What::Path(path) = what else { return Err(format!("{what} is no path")) };
        let value = value.map(|bytes| Rc::new(Restored(bytes.to_vec())) as Stored);
        self.place(key, path.as_str().into(), value);
        Ok(())
    }
}
