//! The directory store on the real disk: what the kernel and other people can do to it.
