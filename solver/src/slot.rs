//! A value that one task sets and others wait for.

use tokio::sync::watch;

/// Empty at first, then set or lost for ever.
#[derive(Debug)]
pub(crate) struct Slot<T>(watch::Sender<Content<T>>);

#[derive(Debug, Clone)]
enum Content<T> {
    Empty,
    Set(T),
    Lost,
}

impl<T: Clone> Slot<T> {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Content::Empty))
    }

    /// Sets the value; only the first one counts.
    pub(crate) fn set(&self, value: T) {
        self.put(Content::Set(value));
    }

    /// Says that there will be no value.
    pub(crate) fn lose(&self) {
        self.put(Content::Lost);
    }

    fn put(&self, content: Content<T>) {
        self.0.send_if_modified(|old| {
            let empty = matches!(old, Content::Empty);
            if empty {
                *old = content;
            }
            empty
        });
    }

    /// Returns the value if it is there.
    pub(crate) fn get(&self) -> Option<T> {
        self.0.borrow().value()
    }

    /// Returns the value once it is there, `None` once it is lost.
    pub(crate) async fn wait(&self) -> Option<T> {
        let mut watch = self.0.subscribe();
        let content = watch.wait_for(|content| !matches!(content, Content::Empty)).await;
        content.expect("the sender lives in self").value()
    }
}

impl<T: Clone> Content<T> {
    fn value(&self) -> Option<T> {
        match self {
            Self::Set(value) => Some(value.clone()),
            Self::Empty | Self::Lost => None,
        }
    }
}
