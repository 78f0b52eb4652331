//! The C library's allocator, told that memory counts more here than contention: records are read
//! by several threads, once.

/// Has all threads share one arena. By default each thread that allocates gets its own, and what
/// the readers of the records free in theirs is of no use to anyone else. It is called before
/// threads are made, and does nothing where the C library is not glibc.
pub fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets a parameter of the allocator, under the allocator's own lock.
    unsafe {
        // Where it is refused, memory is as it was: nothing to report.
        let _ = libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives free memory back to the system, which is worth it once, when everything has been read.
pub fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim releases pages that hold nothing allocated, under the allocator's own
    // lock.
    unsafe {
        let _ = libc::malloc_trim(0);
    }
}
