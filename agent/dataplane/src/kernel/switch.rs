//! The words in the kernel that a switch from one state to the next turns on: the epoch, and the
//! ids that are never used again.

use felid_common::Endpoint;
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::error::{KernelError, Result};
use crate::sys::RawMap;

/// Which bank packets use, and how far the change under way has come.
pub(crate) struct Switch {
    map: RawMap,
    pub(crate) epoch: u32,
    /// The switch has happened, and its second half is still to come.
    pub(crate) unfinished: bool,
    /// Not one transaction has been completed since the start.
    pub(crate) is_first: bool,
}

impl Switch {
    /// Reads the epoch that a previous run left.
    pub(crate) fn adopt(map: RawMap) -> Result<Self> {
        let value = map
            .lookup(&0_u32.to_ne_bytes())
            .map_err(KernelError::call("read the map epoch"))?;
        let word = value.and_then(|value| value.first_chunk::<4>().copied());
        Ok(Self {
            map,
            epoch: word.map_or(0, u32::from_ne_bytes),
            unfinished: false,
            is_first: true,
        })
    }

    /// The bank that packets use.
    pub(crate) const fn active(&self) -> usize {
        (self.epoch & 1) as usize
    }

    /// The bank that no packet uses.
    pub(crate) const fn idle(&self) -> u32 {
        self.epoch.wrapping_add(1) & 1
    }

    /// Has packets use the other bank.
    pub(crate) fn flip(&mut self) -> Result<()> {
        let next = self.epoch.wrapping_add(1);
        self.map
            .update(&0_u32.to_ne_bytes(), &next.to_ne_bytes())
            .map_err(KernelError::call("write the map epoch"))?;
        self.epoch = next;
        self.unfinished = true;
        Ok(())
    }
}

/// The numbers from which new ids are taken. They stand in record 0 of the map `endpoints`, which
/// is no endpoint's: they must not go back even if every endpoint and every translation is gone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NextIds {
    pub(crate) endpoint: u32,
    pub(crate) nat: u32,
}

impl NextIds {
    /// Reads them from the map `endpoints`; zeros in a new one.
    pub(crate) fn read(endpoints: &RawMap) -> Result<Self> {
        let value = endpoints
            .lookup(&0_u32.to_ne_bytes())
            .map_err(KernelError::call("read the map endpoints"))?;
        let record = value.and_then(|value| Endpoint::read_from_bytes(&value).ok());
        Ok(record.map_or_else(Self::default, |record| Self {
            endpoint: record.next_endpoint_id,
            nat: record.next_nat_id,
        }))
    }

    /// Writes them to the map `endpoints`.
    pub(crate) fn write(self, endpoints: &RawMap) -> Result<()> {
        let record = Endpoint {
            next_endpoint_id: self.endpoint,
            next_nat_id: self.nat,
            ..Endpoint::default()
        };
        endpoints
            .update(&0_u32.to_ne_bytes(), record.as_bytes())
            .map_err(KernelError::call("write the map endpoints"))
    }
}
