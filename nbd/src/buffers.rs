//! Buffers that are used again: fresh ones of the size of a large request cost more in page faults than the read itself.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Sizes are powers of two from this one.
const SMALLEST: usize = 4096;
const CLASSES: usize = 14;
/// Bytes kept for the next requests.
const KEPT_MAX: usize = 32 * 1024 * 1024;

/// The buffers of this process: connections and exports hand them to each other.
static SHARED: LazyLock<Buffers> = LazyLock::new(Buffers::default);

/// A buffer of so many bytes.
pub(crate) fn take(len: usize) -> Buffer {
    SHARED.take(len)
}

#[derive(Debug, Default)]
struct Shelves {
    kept: usize,
    free: [Vec<Vec<u8>>; CLASSES],
}

/// Where buffers wait.
#[derive(Clone, Debug, Default)]
struct Buffers(Arc<Mutex<Shelves>>);

/// So many bytes of a buffer that goes back when dropped. Contents are whatever they were.
#[derive(Debug)]
pub(crate) struct Buffer {
    home: Buffers,
    bytes: Vec<u8>,
    len: usize,
}

fn class(len: usize) -> usize {
    let units = len.div_ceil(SMALLEST).next_power_of_two();
    usize::try_from(units.trailing_zeros()).unwrap_or(CLASSES)
}

impl Buffers {
    fn take(&self, len: usize) -> Buffer {
        let class = class(len);
        let mut shelves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = shelves.free.get_mut(class).and_then(Vec::pop);
        shelves.kept -= kept.as_ref().map_or(0, Vec::len);
        drop(shelves);
        let bytes = kept.unwrap_or_else(|| vec![0; SMALLEST << class]);
        Buffer { home: self.clone(), bytes, len }
    }
}

impl Buffer {
    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut shelves = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shelves.kept + bytes.len() <= KEPT_MAX {
            let len = bytes.len();
            if let Some(shelf) = shelves.free.get_mut(class(len)) {
                shelf.push(bytes);
                shelves.kept += len;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_are_bounded() {
        let buffers = Buffers::default();
        let first = buffers.take(4096);
        let place = first.as_ref().as_ptr();
        drop(first);
        let mut again = buffers.take(1);
        assert_eq!((again.as_ref().as_ptr(), again.as_mut().len()), (place, 1));
        let many: Vec<_> = (0..80).map(|_| buffers.take(1024 * 1024)).collect();
        drop((many, again));
        assert!(buffers.0.lock().unwrap().kept <= KEPT_MAX);
        for len in [1, 4096, 4097, 32 << 20] {
            assert_eq!(buffers.take(len).as_ref().len(), len);
        }
    }
}
