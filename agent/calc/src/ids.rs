//! Small numbers for things that are looked up often, and maps keyed by them.

use std::marker::PhantomData;

/// A number that names something.
pub(crate) trait Id: Copy {
    fn new(number: u32) -> Self;
    fn number(self) -> usize;
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(u32);

        impl Id for $name {
            fn new(number: u32) -> Self {
                $name(number)
            }

            fn number(self) -> usize {
                self.0 as usize
            }
        }
    };
}

id! {
    /// An item: an endpoint or network set. Free again only after the flush in which the item went.
    ItemId
}
id! {
    /// A selector in an index, or the policy whose selector it is.
    QueryId
}

/// Hands out numbers, freed ones first.
#[derive(Debug, Default)]
pub(crate) struct IdAllocator<I> {
    next: u32,
    free: Vec<I>,
}

impl<I: Id> IdAllocator<I> {
    pub(crate) fn new() -> Self {
        IdAllocator {
            next: 0,
            free: Vec::new(),
        }
    }

    pub(crate) fn take(&mut self) -> I {
        self.free.pop().unwrap_or_else(|| {
            let id = I::new(self.next);
            self.next += 1;
            id
        })
    }

    pub(crate) fn free(&mut self, id: I) {
        self.free.push(id);
    }
}

/// A map keyed by numbers that [`IdAllocator`] handed out.
#[derive(Debug)]
pub(crate) struct IdMap<I, T> {
    slots: Vec<Option<T>>,
    keys: PhantomData<I>,
}

impl<I: Id, T> IdMap<I, T> {
    pub(crate) fn new() -> Self {
        IdMap {
            slots: Vec::new(),
            keys: PhantomData,
        }
    }

    pub(crate) fn get(&self, id: I) -> Option<&T> {
        self.slots.get(id.number())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: I) -> Option<&mut T> {
        self.slots.get_mut(id.number())?.as_mut()
    }

    pub(crate) fn insert(&mut self, id: I, value: T) -> Option<T> {
        let slot = self.slot(id);
        slot.replace(value)
    }

    pub(crate) fn remove(&mut self, id: I) -> Option<T> {
        self.slots.get_mut(id.number())?.take()
    }

    /// The value, made anew if there is none.
    pub(crate) fn or_default(&mut self, id: I) -> &mut T
    where
        T: Default,
    {
        self.slot(id).get_or_insert_default()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = I> {
        (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.is_some())
            .map(|(number, _)| I::new(number))
    }

    fn slot(&mut self, id: I) -> &mut Option<T> {
        let needed = id.number() + 1;
        if self.slots.len() < needed {
            self.slots.resize_with(needed, || None);
        }
        &mut self.slots[id.number()]
    }
}
