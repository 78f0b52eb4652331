//! The rings in which the keys of half-open flows stand, and what stands in them.

use felid_common::{Charge, Flow};

use super::{Key, is, read_end, read_word};
use crate::maps;

/// A half-open flow that stands in a slot of a ring.
pub(crate) struct Standing {
    /// Whose share it takes.
    pub(crate) charge: Charge,
    /// See [`Flow::is_replaceable`].
    pub(crate) is_replaceable: bool,
}

impl Key {
    /// The key in a slot of a ring; `None`: there is no such slot.
    #[inline(always)]
    pub(crate) fn read_slot(v6: bool, slot: u32) -> Option<Self> {
        // SAFETY: elements of maps. Another CPU that has gone once around the ring may write
        // meanwhile; what is read then is no flow's key.
        unsafe {
            if v6 {
                let place = maps::HALF_OPEN_RING_V6.get_ptr_mut(slot)?;
                Some(Self::of_v6(place.read_volatile()))
            } else {
                let place = maps::HALF_OPEN_RING_V4.get_ptr_mut(slot)?;
                Some(Self::of_v4(place.read_volatile()))
            }
        }
    }

    /// Notes the key in a slot of its endpoint's ring.
    #[inline(always)]
    pub(crate) fn write_slot(&self, slot: u32) {
        // SAFETY: as above.
        unsafe {
            if self.v6 {
                if let Some(place) = maps::HALF_OPEN_RING_V6.get_ptr_mut(slot) {
                    place.write_volatile(self.image);
                }
            } else if let Some(place) = maps::HALF_OPEN_RING_V4.get_ptr_mut(slot) {
                place.write_volatile([self.image[0], self.image[1]]);
            }
        }
    }

    /// What matters of a half-open flow to one that wants its slot; `None`: there is no such flow.
    #[inline(always)]
    pub(crate) fn standing(&self) -> Option<Standing> {
        let flow = self.element(false)?;
        let flags = read_word(flow).state() as u16;
        let charge = Charge::of(&read_end(flow, true), &read_end(flow, false));
        is(flow, self.check).then_some(Standing {
            charge,
            is_replaceable: Flow::is_replaceable(flags),
        })
    }
}
