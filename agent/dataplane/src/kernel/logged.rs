//! What Log rules tell: reading the ring buffer.

use std::path::Path;

use aya::maps::{Map, MapData, MapError, RingBuf};
use felid_common::LogRecord;
use zerocopy::FromBytes as _;

use crate::error::{KernelError, Result};

/// A reader of the records that Log rules write into the ring buffer.
pub struct LogReader(RingBuf<MapData>);

impl LogReader {
    /// Of a pinned ring buffer.
    pub(crate) fn open(pin: &Path) -> Result<Self> {
        let ring = || -> std::result::Result<_, MapError> {
            let data = MapData::from_pin(pin)?;
            RingBuf::try_from(Map::from_map_data(data)?)
        };
        let source = |source| KernelError::Map { name: "log", source };
        ring().map(Self).map_err(source)
    }

    /// Returns the next record, or `None` if there is none at present.
    pub fn next_record(&mut self) -> Option<LogRecord> {
        loop {
            let item = self.0.next()?;
            // A record of another size is not felid's.
            if let Ok(record) = LogRecord::read_from_bytes(&item) {
                return Some(record);
            }
        }
    }
}
