//! Resources: named things that actions share, made once per worker when first used.

use std::any::{Any, type_name};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::error::Error;

/// Makes a resource.
pub(crate) type Factory = Box<dyn Fn() -> Result<Rc<dyn Any>, Error> + Send + Sync>;

/// The resources of one agent on one worker.
#[derive(Default)]
pub(crate) struct Resources {
    made: RefCell<Vec<(String, Rc<dyn Any>)>>,
}

impl Resources {
    /// The resource `name`, made now if it is not there yet.
    pub(crate) fn get<R: 'static>(&self, name: &str, factories: &BTreeMap<String, Factory>) -> Result<Rc<R>, Error> {
        let made = self.made.borrow().iter().find(|(n, _)| n == name).map(|(_, r)| Rc::clone(r));
        let resource = match made {
            Some(resource) => resource,
            None => {
                let factory = factories
                    .get(name)
                    .ok_or_else(|| Error::new(format!("resource {name:?} is not declared in this agent")))?;
                let resource = factory().map_err(|e| Error::new(format!("resource {name:?} cannot be made: {e}")))?;
                self.made.borrow_mut().push((name.into(), Rc::clone(&resource)));
                resource
            }
        };
        resource.downcast().map_err(|_| Error::new(format!("resource {name:?} is not a {}", type_name::<R>())))
    }

    /// Drops all, the last made first.
    pub(crate) fn close(&self) {
        loop {
            let last = self.made.borrow_mut().pop();
            if last.is_none() {
                break;
            }
        }
    }
}
