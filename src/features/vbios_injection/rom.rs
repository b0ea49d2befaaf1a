//! The option ROM in a ConfigMap: whether it is whole, and the devices that its headers name.
//!
//! Format: PCI Firmware Specification 3.3, section 5.1. A ROM is a chain of images. Each starts with `55 AA`, and at 18h
//! is the offset of its structure `PCIR`, which contains at 4 the vendor id, at 6 the device id, at 8 the offset of a list
//! of more device ids (from revision 3 on, which is at 0Ch), at 10h the length, at 14h the type of its code, and at 15h
//! whether it is the last image. Lengths count 512 bytes. All numbers are little endian. Linux reads it in the same way:
//! `drivers/pci/rom.c`, `pci_get_rom_size`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::dump;

/// The unit of lengths.
const BLOCK: usize = 512;

/// Where `PCIR` says whether the image is the last.
const LAST: usize = 0x15;

/// The most device ids that a list may have.
const LISTED: usize = 256;

/// What the headers of a whole option ROM say.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Rom {
    /// The vendor and device ids that the ROM is for, of all images.
    pub(super) ids: Vec<(u16, u16)>,
    /// The first ids of the first image for a BIOS. `None` if there is no such image.
    pub(super) bios: Option<(u16, u16)>,
    /// Where the file ends although another image should follow.
    pub(super) open_end: Option<usize>,
}

/// Why bytes are not an option ROM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RomError {
    /// Cause: an empty file
    /// Cure: dump the ROM again
    #[error("is empty; put the ROM's bytes there")]
    Empty,
    /// Cause: the ConfigMap was written by hand
    /// Cure: create it from the file, as above
    #[error("is not valid base64; make the ConfigMap with kubectl create configmap --from-file=rom=FILE")]
    Base64,
    /// Cause: the file is of another kind: an EFI program, a compressed or a text file, Intel's VBT or OpRegion, a firmware
    /// update, or a dump of a device that could not be read
    /// Cure: the one in the message; how to [dump a ROM](vbios.md#1-dump-the-rom)
    #[error("is {what}, not an option ROM; {cure}")]
    Other { what: &'static str, cure: &'static str },
    /// Cause: the file is the ACPI table `VFCT`, or a flash tool has put a header in front of the ROM
    /// Cure: cut the ROM out with the command in the message
    #[error(
        "is not an option ROM by itself, but {what}; cut it out with {command}, and make the ConfigMap from the file rom"
    )]
    Inside { what: String, command: String },
    /// Cause: the file is not a ROM
    /// Cure: dump the ROM again, from `/sys/bus/pci/devices/.../rom` or with the vendor's tool, and cut off the bytes before `55 AA`
    #[error(
        "starts with {:02X} {:02X}, but an option ROM starts with 55 AA; dump the ROM again, as a flash tool may have put a header in front of it", .0[0], .0[1]
    )]
    Signature([u8; 2]),
    /// Cause: the dump was cut off, or only the first bytes were right
    /// Cure: dump the ROM again
    #[error(
        "starts with 55 AA, but has no PCIR structure where the bytes 18h and 19h say, so it is less than a whole option ROM; \
         dump the ROM again"
    )]
    NoHeader,
    /// Cause: the dump was cut off
    /// Cure: dump the ROM again
    #[error(
        "is less than a whole option ROM: it has {has} bytes, but its image at byte {at} ends at byte {end}; dump the ROM again"
    )]
    Cut { has: usize, at: usize, end: usize },
}

/// A number of two bytes.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at.checked_add(1)?)?]))
}

/// The image at the start of these bytes: its structure `PCIR`, if it has one.
pub(super) fn pcir(bytes: &[u8]) -> Option<&[u8]> {
    let pcir = bytes.get(usize::from(word(bytes, 0x18)?)..)?;
    (bytes.starts_with(&[0x55, 0xaa]) && pcir.starts_with(b"PCIR") && pcir.len() > LAST).then_some(pcir)
}

/// Whether an image is for a BIOS on x86, by the type of its code.
fn is_bios(pcir: &[u8]) -> bool {
    pcir.get(0x14) == Some(&0)
}

/// How many bytes an image has, as its headers say; 0 if they do not.
fn length(image: &[u8], pcir: &[u8]) -> usize {
    // An image for x86 has its length also in the third byte.
    let own = image.get(2).filter(|_| is_bios(pcir)).copied().unwrap_or_default();
    usize::from(word(pcir, 0x10).unwrap_or_default().max(own.into())) * BLOCK
}

/// The vendor and device ids of an image.
fn ids(pcir: &[u8]) -> impl Iterator<Item = (u16, u16)> {
    let has_list = pcir.get(0xc).is_some_and(|revision| *revision >= 3);
    let list = word(pcir, 8).filter(|at| has_list && *at > 0).and_then(|at| pcir.get(at.into()..));
    let more = list.unwrap_or_default().chunks_exact(2).map_while(|id| word(id, 0)).take_while(|id| *id != 0);
    let vendor = word(pcir, 4).unwrap_or_default();
    word(pcir, 6).into_iter().chain(more.take(LISTED)).map(move |device| (vendor, device))
}

impl Rom {
    /// Reads the headers of a ROM that is encoded in base64.
    pub(super) fn parse(base64: &str) -> Result<Self, RomError> {
        let bytes = STANDARD.decode(base64).map_err(|_| RomError::Base64)?;
        if bytes.is_empty() {
            return Err(RomError::Empty);
        }
        if !bytes.starts_with(&[0x55, 0xaa]) {
            return Err(dump::recognize(&bytes));
        }
        let mut rom = Self::default();
        let mut at = 0;
        while let Some(image) = bytes.get(at..).filter(|image| image.starts_with(&[0x55, 0xaa])) {
            let Some(pcir) = pcir(image) else {
                // The later images of some vendors have structures of their own.
                let is_cut = word(image, 0x18).is_none_or(|pcir| usize::from(pcir) + LAST >= image.len());
                if at == 0 || is_cut { return Err(RomError::NoHeader) } else { break }
            };
            let length = length(image, pcir);
            if length > image.len() {
                return Err(RomError::Cut { has: bytes.len(), at, end: at + length });
            }
            rom.bios = rom.bios.or(ids(pcir).next().filter(|_| is_bios(pcir)));
            rom.ids.extend(ids(pcir));
            let is_last = pcir.get(LAST).is_none_or(|indicator| indicator & 0x80 != 0);
            at += length;
            if is_last || length == 0 {
                break;
            }
            rom.open_end = Some(at).filter(|end| *end == bytes.len());
        }
        Ok(rom)
    }

    /// Whether a device with these ids, such as `1002:1638`, is one that the ROM is for.
    pub(super) fn is_for(&self, ids: &str) -> bool {
        let number = |text| u16::from_str_radix(text, 16).ok();
        let ids = ids.split_once(':').and_then(|(vendor, device)| number(vendor).zip(number(device)));
        ids.is_some_and(|ids| self.ids.contains(&ids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const AMD: (u16, u16) = (0x1002, 0x1638);

    /// Makes an image of this many blocks whose PCIR structure is at the offset.
    fn image(blocks: u8, offset: u16, indicator: u8) -> Vec<u8> {
        let at = usize::from(offset);
        let mut rom = vec![0; (at + 0x18).max(usize::from(blocks) * BLOCK)];
        rom[..3].copy_from_slice(&[0x55, 0xaa, blocks]);
        rom[0x18..0x1a].copy_from_slice(&offset.to_le_bytes());
        rom[at..at + 4].copy_from_slice(b"PCIR");
        rom[at + 4..at + 8].copy_from_slice(&[0x02, 0x10, 0x38, 0x16]);
        rom[at + 0x10] = blocks;
        rom[at + LAST] = indicator;
        rom
    }

    /// An image for EFI, which follows another.
    fn efi(indicator: u8) -> Vec<u8> {
        let mut image = image(3, 0x1c, indicator);
        (image[2], image[0x1c + 0x14]) = (0xff, 3);
        image
    }

    fn parse(bytes: &[u8]) -> Result<Rom, RomError> {
        Rom::parse(&STANDARD.encode(bytes))
    }

    fn rom(ids: &[(u16, u16)]) -> Result<Rom, RomError> {
        Ok(Rom { ids: ids.to_vec(), bios: Some(AMD), open_end: None })
    }

    #[rstest]
    #[case::near(0x1c)]
    #[case::usual(0x250)]
    #[case::far(0xffff)]
    fn the_ids_are_read(#[case] offset: u16) {
        assert_eq!(parse(&image(1, offset, 0x80)), rom(&[AMD]));
    }

    #[test]
    fn a_file_may_be_longer_than_its_rom() {
        let mut large = image(1, 0x1c, 0x80);
        large.resize(1 << 20, 0xff);
        assert_eq!(parse(&large), rom(&[AMD]));
    }

    #[test]
    fn all_images_are_read() {
        let mut other = efi(0x80);
        other[0x1c + 6] = 0x39;
        let chain = [image(2, 0x40, 0), efi(0), other].concat();
        assert_eq!(parse(&chain), rom(&[AMD, AMD, (0x1002, 0x1639)]));
    }

    #[test]
    fn an_image_for_efi_is_none_for_a_bios() {
        assert_eq!(parse(&efi(0x80)), Ok(Rom { ids: vec![AMD], bios: None, open_end: None }));
        assert_eq!(parse(&[efi(0), image(2, 0x40, 0x80)].concat()).unwrap().bios, Some(AMD));
    }

    #[rstest]
    #[case::of_revision_3(3, &[AMD, (0x1002, 0x1681), (0x1002, 0x15bf)])]
    #[case::before_revision_3_the_pointer_is_another(0, &[AMD])]
    fn the_list_of_devices_is_read(#[case] revision: u8, #[case] ids: &[(u16, u16)]) {
        let mut image = image(1, 0x40, 0x80);
        image[0x40 + 8] = 0x20;
        image[0x40 + 0xc] = revision;
        image[0x60..0x66].copy_from_slice(&[0x81, 0x16, 0xbf, 0x15, 0, 0]);
        assert_eq!(parse(&image), rom(ids));
        let found = parse(&image).unwrap();
        assert!(found.is_for("1002:1638") && found.is_for("1002:1638".to_uppercase().as_str()));
        assert_eq!(found.is_for("1002:15BF"), revision == 3);
        assert!(!found.is_for("10de:1638") && !found.is_for("1638") && !found.is_for(":"));
    }

    #[rstest]
    #[case::nvidias_signature(b"VN\0\0")]
    #[case::padding(b"\xff\xff\xff\xff")]
    #[case::structure_of_the_vendors(&{
        let mut image = image(1, 0x40, 0x80);
        image[0x40..0x44].copy_from_slice(b"NPDS");
        image
    })]
    fn what_follows_an_image_may_be_something_else(#[case] next: &[u8]) {
        assert_eq!(parse(&[&image(1, 0x40, 0)[..], next].concat()), rom(&[AMD]));
    }

    #[test]
    fn a_chain_may_end_too_early_between_two_images() {
        assert_eq!(parse(&image(2, 0x40, 0)).unwrap().open_end, Some(1024));
        assert_eq!(parse(&[image(2, 0x40, 0), efi(0x80)].concat()).unwrap().open_end, None);
    }

    #[test]
    fn a_length_of_zero_says_nothing() {
        assert_eq!(parse(&image(0, 0x40, 0)), rom(&[AMD]));
    }

    #[rstest]
    #[case::other_structure(&{
        let mut image = image(1, 0x40, 0x80);
        image[0x40..0x44].copy_from_slice(b"NPDE");
        image
    })]
    #[case::signature_alone(&[0x55, 0xaa])]
    #[case::nothing_behind_it(&{
        let mut image = vec![0; 512];
        image[..2].copy_from_slice(&[0x55, 0xaa]);
        image
    })]
    #[case::offset_beyond_the_end(&image(2, 0x250, 0x80)[..0x200])]
    #[case::structure_cut_off(&image(2, 0x250, 0x80)[..0x257])]
    #[case::header_of_a_later_image_cut_off(&[&image(1, 0x40, 0)[..], &efi(0x80)[..0x1b]].concat())]
    #[case::structure_of_a_later_image_cut_off(&[&image(1, 0x40, 0)[..], &efi(0x80)[..0x30]].concat())]
    fn a_rom_needs_its_headers(#[case] bytes: &[u8]) {
        assert_eq!(parse(bytes), Err(RomError::NoHeader));
    }

    #[test]
    fn a_rom_needs_all_its_bytes() {
        let whole = [image(2, 0x40, 0), efi(0x80)].concat();
        let (has, at, end) = (whole.len() - 1, 1024, whole.len());
        assert_eq!(parse(&whole[..has]), Err(RomError::Cut { has, at, end }));
        assert_eq!(parse(&whole[..1000]), Err(RomError::Cut { has: 1000, at: 0, end: 1024 }));
        let mut by_its_own_byte = image(1, 0x40, 0x80);
        by_its_own_byte[2] = 2;
        assert_eq!(parse(&by_its_own_byte), Err(RomError::Cut { has: 512, at: 0, end: 1024 }));
    }

    #[rstest]
    #[case::empty(b"", RomError::Empty)]
    #[case::one_byte(&[0x55], RomError::Signature([0x55, 0]))]
    #[case::swapped(&[0xaa, 0x55, 0], RomError::Signature([0xaa, 0x55]))]
    fn bytes_that_are_no_rom(#[case] bytes: &[u8], #[case] error: RomError) {
        assert_eq!(parse(bytes), Err(error));
    }

    #[test]
    fn text_that_is_no_base64() {
        assert_eq!(Rom::parse("not base64!"), Err(RomError::Base64));
        assert_eq!(Rom::parse("\u{e9}".repeat(100_000).as_str()), Err(RomError::Base64));
    }
}
