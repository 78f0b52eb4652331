//! Elements of maps: one, many with one call, or all of them.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use aya::maps::{MapData, MapError};
use aya_obj::generated::bpf_cmd::{self, *};

use super::attr::{BatchAttr, BatchError, ElementAttr};
use super::{bpf, length, raw};

/// A map with the sizes that the kernel reports for it. Every call checks its buffers against them.
#[derive(Debug)]
pub struct RawMap {
    data: MapData,
    key: usize,
    value: usize,
    entries: u32,
    id: u32,
}

impl RawMap {
    /// Takes a map over. `cpus` is the number of values an element of a per-CPU map has, 1 for
    /// other maps.
    pub fn new(data: MapData, cpus: usize) -> Result<Self, MapError> {
        let info = data.info()?;
        let (key, value) = (info.key_size() as usize, info.value_size() as usize);
        // Per-CPU values are padded to 8 bytes each.
        let value = if cpus > 1 {
            value.next_multiple_of(8) * cpus
        } else {
            value
        };
        let (entries, id) = (info.max_entries(), info.id());
        Ok(Self {
            data,
            key,
            value,
            entries,
            id,
        })
    }

    /// Returns how many bytes a key has.
    pub const fn key_size(&self) -> usize {
        self.key
    }

    /// Returns how many bytes a value has as user space sees it: that of all CPUs together.
    pub const fn value_size(&self) -> usize {
        self.value
    }

    /// Returns how many entries the map can hold.
    pub const fn max_entries(&self) -> u32 {
        self.entries
    }

    /// Returns the kernel's id of the map.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Returns the file descriptor, for as long as the map is borrowed.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }

    fn check(&self, keys: usize, values: usize) -> io::Result<usize> {
        let count = keys / self.key;
        if keys == count * self.key && values == count * self.value {
            Ok(count)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "key or value of another size than the map's",
            ))
        }
    }

    /// One element. `value` is what the command reads or writes, or nothing. Whether the element
    /// was there.
    fn element(&self, command: bpf_cmd, key: &[u8], value: Option<&mut [u8]>) -> io::Result<bool> {
        let size = value.as_ref().map_or(self.value, |value| value.len());
        if self.check(key.len(), size)? != 1 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not one element"));
        }
        let value = value.map_or(0, |value| value.as_mut_ptr() as u64);
        let mut attr = ElementAttr {
            map_fd: raw(self.fd()),
            pad: 0,
            key: key.as_ptr() as u64,
            value,
            flags: 0,
        };
        // SAFETY: key and value have the sizes of this map (checked) and outlive the call; the key
        // is only read, the value is ours.
        match unsafe { bpf(command, &mut attr) } {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the value of a key, or `None` if the map does not have it. It fails if the key has
    /// another size than the map's keys.
    pub fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value];
        Ok(self
            .element(BPF_MAP_LOOKUP_ELEM, key, Some(&mut value))?
            .then_some(value))
    }

    /// Writes one element. It fails if key or value have another size than the map's, or the map is
    /// full.
    pub fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let written = self.element(BPF_MAP_UPDATE_ELEM, key, Some(&mut value.to_vec()))?;
        if written {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ENOENT))
        }
    }

    /// Deletes one element, and returns whether it was there. It fails if the key has another size
    /// than the map's keys.
    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        self.element(BPF_MAP_DELETE_ELEM, key, None)
    }

    /// Writes many elements with one call: `keys` and `values` hold them one after the other. The
    /// error says how many were certainly written.
    pub fn update_batch(&self, keys: &[u8], values: &[u8]) -> Result<(), BatchError> {
        let count = self
            .check(keys.len(), values.len())
            .map_err(|error| BatchError { done: 0, error })?;
        if count == 0 {
            return Ok(());
        }
        let mut attr = BatchAttr {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: length(count).map_err(|error| BatchError { done: 0, error })?,
            map_fd: raw(self.fd()),
            ..BatchAttr::default()
        };
        // SAFETY: `keys` and `values` hold `count` elements of this map's sizes (checked), are only
        // read and outlive the call.
        unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }
            .map(|_| ())
            .map_err(|error| BatchError {
                done: (attr.count as usize).min(count),
                error,
            })
    }

    /// Calls `visit` with the key and the value of every element, in the kernel's order. Elements
    /// that come or go meanwhile may be missed or seen twice.
    pub fn dump(&self, mut visit: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let mut chunk = self.entries.clamp(1, 4096) as usize;
        // Hash tables keep a u32 here, the others a key.
        let cursor_size = self.key.max(4);
        let (mut cursor, mut next) = (vec![0_u8; cursor_size], vec![0_u8; cursor_size]);
        let mut first = true;
        let (mut keys, mut values) = (vec![0_u8; chunk * self.key], vec![0_u8; chunk * self.value]);
        loop {
            let mut attr = BatchAttr {
                in_batch: if first { 0 } else { cursor.as_ptr() as u64 },
                out_batch: next.as_mut_ptr() as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: length(chunk)?,
                map_fd: raw(self.fd()),
                ..BatchAttr::default()
            };
            // SAFETY: `keys` and `values` have room for `count` elements, the cursors for a key or
            // a u32; all outlive the call.
            let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
            let last = match result {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                // A bucket larger than the buffers.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && chunk < 1 << 20 => {
                    chunk *= 2;
                    keys.resize(chunk * self.key, 0);
                    values.resize(chunk * self.value, 0);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let count = (attr.count as usize).min(chunk);
            for (key, value) in keys
                .chunks_exact(self.key)
                .zip(values.chunks_exact(self.value))
                .take(count)
            {
                visit(key, value);
            }
            if last {
                return Ok(());
            }
            std::mem::swap(&mut cursor, &mut next);
            first = false;
        }
    }
}
