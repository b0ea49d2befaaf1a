//! The option ROM in a ConfigMap: its signature, and the device that its header names.
//!
//! Format: PCI Firmware Specification 3.3, section 5.1.1. The ROM starts with `55 AA`. At 18h is the offset of the
//! structure `PCIR`, which contains the vendor id at 4 and the device id at 6. All numbers are little endian.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// How much of a ROM is decoded. This is enough for any offset of 16 bits and the structure after it.
const HEAD: usize = 0x1_0000 + 0x20;

/// The header of an option ROM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rom {
    /// The vendor and device ids that the ROM is for, if the header names them.
    pub(super) ids: Option<(u16, u16)>,
}

/// Why bytes are not an option ROM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum RomError {
    /// Cause: an empty file
    /// Cure: dump the ROM again
    #[error("is empty; put the ROM's bytes there")]
    Empty,
    /// Cause: the ConfigMap was written by hand
    /// Cure: create it from the file, as above
    #[error("is not valid base64; make the ConfigMap with kubectl create configmap --from-file=rom=FILE")]
    Base64,
    /// Cause: the file is not a ROM
    /// Cure: dump the ROM again, from `/sys/bus/pci/devices/.../rom` or with the vendor's tool, and cut off the bytes before `55 AA`
    #[error(
        "starts with {:02X} {:02X}, but an option ROM starts with 55 AA; dump the ROM again, as a flash tool may have put a header in front of it", .0[0], .0[1]
    )]
    Signature([u8; 2]),
}

impl Rom {
    /// Reads the header of a ROM that is encoded in base64.
    pub(super) fn parse(base64: &str) -> Result<Self, RomError> {
        // In base64, four characters encode three bytes.
        let head = base64.get(..HEAD.div_ceil(3) * 4).unwrap_or(base64);
        let bytes = STANDARD.decode(head).map_err(|_| RomError::Base64)?;
        let byte = |index: usize| bytes.get(index).copied();
        let word = |index: usize| Some(u16::from_le_bytes([byte(index)?, byte(index + 1)?]));
        match (byte(0), byte(1)) {
            (None, _) => return Err(RomError::Empty),
            (Some(0x55), Some(0xaa)) => {}
            (Some(first), second) => return Err(RomError::Signature([first, second.unwrap_or_default()])),
        }
        let ids = word(0x18).map(usize::from).and_then(|pcir| {
            let signature = bytes.get(pcir..pcir + 4)?;
            if signature == b"PCIR" { word(pcir + 4).zip(word(pcir + 6)) } else { None }
        });
        Ok(Self { ids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// Makes a ROM whose PCIR structure is at the offset.
    fn rom(offset: u16, signature: &[u8; 4]) -> Vec<u8> {
        let at = usize::from(offset);
        let mut rom = vec![0; at + 0x18];
        rom[..2].copy_from_slice(&[0x55, 0xaa]);
        rom[0x18..0x1a].copy_from_slice(&offset.to_le_bytes());
        rom[at..at + 4].copy_from_slice(signature);
        rom[at + 4..at + 8].copy_from_slice(&[0x02, 0x10, 0x38, 0x16]);
        rom
    }

    fn parse(bytes: &[u8]) -> Result<Rom, RomError> {
        Rom::parse(&STANDARD.encode(bytes))
    }

    #[rstest]
    #[case::near(0x1c)]
    #[case::usual(0x250)]
    #[case::far(0xffff)]
    fn the_ids_are_read(#[case] offset: u16) {
        assert_eq!(parse(&rom(offset, b"PCIR")), Ok(Rom { ids: Some((0x1002, 0x1638)) }));
    }

    #[test]
    fn a_rom_of_a_megabyte_is_read_by_its_head() {
        let mut large = rom(0x250, b"PCIR");
        large.resize(1 << 20, 0xff);
        assert_eq!(parse(&large), Ok(Rom { ids: Some((0x1002, 0x1638)) }));
    }

    #[rstest]
    #[case::other_structure(&rom(0x250, b"NPDE"))]
    #[case::signature_alone(&[0x55, 0xaa])]
    #[case::offset_beyond_the_end(&rom(0x250, b"PCIR")[..0x200])]
    #[case::structure_cut_off(&rom(0x250, b"PCIR")[..0x257])]
    fn a_rom_may_not_tell_its_device(#[case] bytes: &[u8]) {
        assert_eq!(parse(bytes), Ok(Rom { ids: None }));
    }

    #[rstest]
    #[case::empty(b"", RomError::Empty)]
    #[case::one_byte(&[0x55], RomError::Signature([0x55, 0]))]
    #[case::swapped(&[0xaa, 0x55, 0], RomError::Signature([0xaa, 0x55]))]
    #[case::text(b"hello", RomError::Signature([0x68, 0x65]))]
    fn bytes_that_are_no_rom(#[case] bytes: &[u8], #[case] error: RomError) {
        assert_eq!(parse(bytes), Err(error));
    }

    #[test]
    fn text_that_is_no_base64() {
        assert_eq!(Rom::parse("not base64!"), Err(RomError::Base64));
        assert_eq!(Rom::parse("\u{e9}".repeat(100_000).as_str()), Err(RomError::Base64));
    }
}
