//! Which node a device is on.

use std::path::Path;

use aquifer_backend::{Error, ErrorKind};

/// The node of a device on the PCI bus, by its address (`0000:17:00.0`; the domain may be longer or absent, and capital letters
/// are fine), as `sys/bus/pci/devices` below `root` says. `None` if the system does not know, which is common where there is
/// one node only, and in virtual machines.
///
/// The node need not have memory, nor be online; see [`NumaTopology`](super::NumaTopology).
///
/// # Errors
///
/// [`ErrorKind::Configuration`] if this is no such address, or there is no device at it.
pub fn node_of_pci_device(root: &Path, address: &str) -> Result<Option<u32>, Error> {
    let refuse = |message| Err(Error::new(ErrorKind::Configuration, "node_of_pci_device", message));
    let Some(name) = name(address) else {
        return refuse(format!("{address:?} is no PCI address; give one such as 0000:17:00.0"));
    };
    let folder = root.join("sys/bus/pci/devices").join(&name);
    if !folder.is_dir() {
        return refuse(format!("there is no PCI device {name}; see lspci -D for those there are"));
    }
    // A kernel built without NUMA has no such file, and -1 is its word for unknown.
    let text = std::fs::read_to_string(folder.join("numa_node")).unwrap_or_default();
    Ok(text.trim().parse().ok())
}

/// The address as the kernel writes it; `None` if it is none.
fn name(address: &str) -> Option<String> {
    let hex = |text: &str, digits_max: usize| {
        let is_hex =
            (1..=digits_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u32::from_str_radix(text, 16).ok())?
    };
    let (place, function) = address.trim().rsplit_once('.')?;
    let mut parts = place.rsplit(':');
    let device = hex(parts.next()?, 2)?;
    let bus = hex(parts.next()?, 2)?;
    let domain = parts.next().map_or(Some(0), |domain| hex(domain, 8))?;
    let function = hex(function, 1).filter(|&function| function < 8)?;
    let is_all = parts.next().is_none() && device < 32;
    is_all.then(|| format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree;

    #[test]
    fn addresses_are_written_as_the_kernel_does() {
        for (address, expected) in [
            ("0000:17:00.0", "0000:17:00.0"),
            ("17:00.1", "0000:17:00.1"),
            ("00000000:C1:1F.7", "0000:c1:1f.7"),
            ("10000:e1:00.0\n", "10000:e1:00.0"),
        ] {
            assert_eq!(name(address).as_deref(), Some(expected));
        }
        for address in [
            "",
            ".",
            ":",
            "0",
            "17:00",
            "17.0",
            "0000:17:00.8",
            "0000:17:20.0",
            "0000:17:00.00",
            "1:2:3:4.0",
            "../0000:17:00.0",
            "0000:17:00.0/..",
            "+1:00.0",
            "0000::00.0",
            "000000000:17:00.0",
            "é:00.0",
        ] {
            assert_eq!(name(address), None, "{address:?}");
        }
    }

    #[test]
    fn a_device_is_on_a_node_or_nobody_knows() {
        let root = tree(&[
            ("sys/bus/pci/devices/0000:17:00.0/numa_node", "1\n"),
            ("sys/bus/pci/devices/0000:18:00.0/numa_node", "-1\n"),
            ("sys/bus/pci/devices/0000:19:00.0/numa_node", "many\n"),
            ("sys/bus/pci/devices/0000:1a:00.0/class", "0x030200\n"),
        ]);
        let node = |address| node_of_pci_device(root.path(), address);
        assert_eq!(node("0000:17:00.0").unwrap(), Some(1));
        for unknown in ["0000:18:00.0", "0000:19:00.0", "0000:1a:00.0"] {
            assert_eq!(node(unknown).unwrap(), None);
        }
        for (refused, part) in [("0000:1b:00.0", "no PCI device 0000:1b:00.0"), ("17", "\"17\" is no PCI")] {
            let error = node(refused).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.message().contains(part), "{error}");
        }
    }
}
