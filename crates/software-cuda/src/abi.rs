//! The words of CUDA's C interface. Numbers and layouts are those of `cuda.h`.

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};

/// A `CUresult` that is not `CUDA_SUCCESS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) c_int);

impl Code {
    pub(crate) const INVALID_VALUE: Self = Self(1);
    pub(crate) const OUT_OF_MEMORY: Self = Self(2);
    pub(crate) const NOT_INITIALIZED: Self = Self(3);
    pub(crate) const NO_DEVICE: Self = Self(100);
    pub(crate) const INVALID_DEVICE: Self = Self(101);
    pub(crate) const INVALID_CONTEXT: Self = Self(201);
    pub(crate) const PEER_ACCESS_UNSUPPORTED: Self = Self(217);
    pub(crate) const INVALID_HANDLE: Self = Self(400);
    pub(crate) const NOT_READY: Self = Self(600);
    pub(crate) const ILLEGAL_ADDRESS: Self = Self(700);
    pub(crate) const PEER_ACCESS_ALREADY_ENABLED: Self = Self(704);
    pub(crate) const PEER_ACCESS_NOT_ENABLED: Self = Self(705);
    pub(crate) const CONTEXT_IS_DESTROYED: Self = Self(709);
    pub(crate) const HOST_MEMORY_ALREADY_REGISTERED: Self = Self(712);
    pub(crate) const HOST_MEMORY_NOT_REGISTERED: Self = Self(713);
    pub(crate) const NOT_PERMITTED: Self = Self(800);
    pub(crate) const NOT_SUPPORTED: Self = Self(801);
}

/// What a call answers.
pub(crate) type Answer<T = ()> = Result<T, Code>;

/// `CUcontext`, `CUstream`, `CUevent`: opaque to programs, keys of tables here. Never dereferenced.
pub(crate) type Handle = usize;

/// `CUdeviceptr`.
pub(crate) type Address = c_ulonglong;

/// `CUhostFn`.
pub(crate) type HostFn = Option<unsafe extern "C" fn(*mut c_void)>;

/// A pointer through which a call answers. Values come from callers of C functions only, who answer for the pointer: null, or
/// valid for reads and writes until the call returns.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    pub(crate) fn new(place: &mut T) -> Self {
        Self(place)
    }

    /// What is there now, of a place that the call also reads.
    pub(crate) fn get(self) -> Answer<T>
    where
        T: Copy,
    {
        In(self.0.cast_const()).get()
    }

    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// `INVALID_VALUE` for null: to be asked before anything is done.
    pub(crate) fn check(self) -> Answer {
        if self.is_null() { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    pub(crate) fn put(self, value: T) -> Answer {
        self.put_at(0, value)
    }

    /// Element `index` of an array, which the caller says is long enough.
    pub(crate) fn put_at(self, index: usize, value: T) -> Answer {
        self.check()?;
        // SAFETY: not null, so valid for writes, as the type says; callers of C functions may have aligned it badly.
        unsafe { self.0.wrapping_add(index).write_unaligned(value) };
        Ok(())
    }

    /// For a place of a type that another argument names.
    pub(crate) fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }
}

/// A pointer from which a call reads: as [`Out`], valid for reads.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct In<T>(*const T);

impl<T: Copy> In<T> {
    pub(crate) fn new(value: &T) -> Self {
        Self(value)
    }

    pub(crate) fn get(self) -> Answer<T> {
        self.get_at(0)
    }

    pub(crate) fn get_at(self, index: usize) -> Answer<T> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, so valid for reads of as many values as the call's other arguments say.
        Ok(unsafe { self.0.wrapping_add(index).read_unaligned() })
    }
}

/// `CUmemLocation`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Location {
    pub(crate) kind: c_uint,
    pub(crate) id: c_int,
}

impl Location {
    pub(crate) const DEVICE: c_uint = 1;
}

/// `CUmemAllocationProp`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct AllocationProp {
    pub(crate) kind: c_uint,
    pub(crate) handle_types: c_uint,
    pub(crate) location: Location,
    pub(crate) win32_metadata: *mut c_void,
    pub(crate) compression: u8,
    pub(crate) rdma: u8,
    pub(crate) usage: u16,
    pub(crate) reserved: [u8; 4],
}

/// `CUmemAccessDesc`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct AccessDesc {
    pub(crate) location: Location,
    pub(crate) flags: c_uint,
}

const _: () = assert!(size_of::<AllocationProp>() == 32 && size_of::<AccessDesc>() == 12);
