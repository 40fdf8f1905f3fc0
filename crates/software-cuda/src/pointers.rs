//! What an address is.

#![allow(non_snake_case)]

use crate::abi::{Address, Answer, Code, Handle, In, Out};
use crate::driver::Driver;
use crate::faults::enter;
use crate::space::{Kind, Region, Space};
use std::ffi::{c_int, c_uint, c_ulonglong, c_void};
use std::sync::atomic::Ordering;

/// `CUmemorytype`.
const HOST: c_uint = 1;
const DEVICE: c_uint = 2;

/// Puts one `CUpointer_attribute` of an address in a region. An answer's type is the attribute's.
fn put_attribute(
    space: &Space,
    region: &Region,
    address: Address,
    number: c_uint,
    to: Out<c_void>,
) -> Answer {
    let is_host = matches!(region.kind, Kind::Pinned | Kind::Registered);
    match number {
        1 => match region.context {
            Some(context) => to.cast::<Handle>().put(context),
            None => Err(Code::INVALID_VALUE), // mappings are of no context
        },
        2 => to.cast::<c_uint>().put(if is_host { HOST } else { DEVICE }),
        3 => to.cast::<Address>().put(address),
        4 if region.is_host_visible() => to.cast::<Address>().put(address),
        4 => Err(Code::INVALID_VALUE),
        6 => to.cast::<u8>().put(0),
        7 => to.cast::<c_ulonglong>().put(region.id as c_ulonglong),
        8 => to.cast::<u8>().put(u8::from(region.kind == Kind::Managed)),
        9 => to.cast::<c_int>().put(region.device as c_int),
        10 => to.cast::<u8>().put(u8::from(region.kind == Kind::Block)),
        11 => to.cast::<Address>().put(region.start),
        12 => to.cast::<usize>().put(region.len as usize),
        13 => to.cast::<u8>().put(1),
        14 => {
            let physical = space.handles.get(&region.physical);
            to.cast::<u64>().put(physical.map_or(0, |physical| u64::from(physical.handle_types)))
        }
        15 => {
            let physical = space.handles.get(&region.physical);
            let is_capable = physical.map_or(region.kind == Kind::Block, |physical| physical.is_rdma_capable);
            to.cast::<u8>().put(u8::from(is_capable))
        }
        16 => {
            let access = region.access.get(region.device);
            to.cast::<c_uint>().put(access.map_or(3, |access| access.load(Ordering::SeqCst).into()))
        }
        5 | 17 => Err(Code::NOT_SUPPORTED),
        _ => Err(Code::INVALID_VALUE),
    }
}

fn attribute(driver: &Driver, address: Address, number: c_uint, to: Out<c_void>) -> Answer {
    let space = driver.space.lock();
    let region = space.at(address).ok_or(Code::INVALID_VALUE)?;
    put_attribute(&space, region, address, number, to)
}

#[unsafe(no_mangle)]
extern "C" fn cuPointerGetAttribute(to: Out<c_void>, number: c_uint, address: Address) -> c_int {
    enter("cuPointerGetAttribute", |driver| {
        to.check()?;
        attribute(driver, address, number, to)
    })
}

/// As many bytes as an attribute has, zero. The start of an allocation is left as it was, as the driver was seen to do.
fn put_none(number: c_uint, to: Out<c_void>) -> Answer {
    match number {
        11 => Ok(()),
        6 | 8 | 10 | 13 | 15 => to.cast::<u8>().put(0),
        2 | 16 => to.cast::<c_uint>().put(0),
        9 => to.cast::<c_int>().put(-2), // CU_DEVICE_INVALID
        _ => to.cast::<u64>().put(0),
    }
}

/// Of an address that the driver does not know, and of what an address has not, the answer is zero, but for [`put_none`]'s exception.
#[unsafe(no_mangle)]
extern "C" fn cuPointerGetAttributes(
    count: c_uint,
    numbers: In<c_uint>,
    places: In<Out<c_void>>,
    address: Address,
) -> c_int {
    enter("cuPointerGetAttributes", |driver| {
        for i in 0..count as usize {
            let (number, to) = (numbers.get_at(i)?, places.get_at(i)?);
            to.check()?;
            if !(1..=17).contains(&number) {
                return Err(Code::INVALID_VALUE);
            }
            attribute(driver, address, number, to).or_else(|_| put_none(number, to))?;
        }
        Ok(())
    })
}
