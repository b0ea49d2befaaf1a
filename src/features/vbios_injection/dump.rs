//! What a file is that people take for an option ROM, and what they can do about it.

use super::rom::{RomError, pcir, word};

/// A kind of file, known by bytes at an offset.
struct Known {
    at: usize,
    magic: &'static [u8],
    what: &'static str,
    cure: &'static str,
}

const PACKED: &str = "unpack it, and make the ConfigMap from the file inside";
const INTEL: &str = "take the ROM, which reads this table, from the vendor's firmware";
const UPDATE: &str = "take the ROM out of it with UEFITool, or dump it on the host";
const UNREADABLE: &str =
    "the device could not be read; write 1 to its file rom first, and dump it while no driver uses the device";

/// Sources of the less known: `drivers/gpu/drm/i915/display/intel_vbt_defs.h` and `intel_opregion.c` of Linux, and the UEFI
/// specification, `EFI_CAPSULE_HEADER` and `EFI_FIRMWARE_VOLUME_HEADER`.
const KNOWN: [Known; 16] = [
    Known { at: 0, magic: b"$VBT", what: "an Intel VBT (video BIOS table)", cure: INTEL },
    Known { at: 0, magic: b"IntelGraphicsMem", what: "Intel's OpRegion with its VBT", cure: INTEL },
    Known {
        at: 0,
        magic: b"MZ",
        what: "an EFI program (MZ)",
        cure: "make a ROM of it with edk2's tool, EfiRom -f 0xVENDOR -i 0xDEVICE -e FILE -o rom, or dump the whole ROM",
    },
    Known { at: 0, magic: b"\x1f\x8b", what: "a gzip file", cure: PACKED },
    Known { at: 0, magic: b"\xfd7zXZ", what: "an xz file", cure: PACKED },
    Known { at: 0, magic: b"\x28\xb5\x2f\xfd", what: "a zstd file", cure: PACKED },
    Known { at: 0, magic: b"BZh", what: "a bzip2 file", cure: PACKED },
    Known { at: 0, magic: b"PK\x03\x04", what: "a zip file", cure: PACKED },
    Known { at: 0, magic: b"7z\xbc\xaf", what: "a 7-Zip file", cure: PACKED },
    Known { at: 0, magic: b"Rar!", what: "a RAR file", cure: PACKED },
    Known { at: 257, magic: b"ustar", what: "a tar file", cure: PACKED },
    // EFI_FIRMWARE_MANAGEMENT_CAPSULE_ID_GUID, the GUID of Intel's capsules, and that of AMI's.
    Known { at: 0, magic: b"\xed\xd5\xcb\x6d\x2d\xe8\x44\x4c", what: "a UEFI capsule", cure: UPDATE },
    Known { at: 0, magic: b"\xbd\x86\x66\x3b\x76\x0d\x30\x40", what: "a UEFI capsule", cure: UPDATE },
    Known { at: 0, magic: b"\x8b\xa6\x3c\x4a\x23\x77\xfb\x48", what: "a UEFI capsule", cure: UPDATE },
    Known { at: 16, magic: b"\x5a\xa5\xf0\x0f", what: "an image of a whole firmware flash", cure: UPDATE },
    Known { at: 40, magic: b"_FVH", what: "a UEFI firmware volume", cure: UPDATE },
];

/// How many bytes must be equal for a dump to be one of nothing.
const BLANK: usize = 16;

/// How many bytes tell whether a file is text.
const TEXT: usize = 256;

/// The most images of an ACPI table that a message lists.
const IMAGES: usize = 4;

/// Finds out what bytes are that do not start with `55 AA`. There is at least one byte.
pub(super) fn recognize(bytes: &[u8]) -> RomError {
    let is = |known: &&Known| bytes.get(known.at..).is_some_and(|bytes| bytes.starts_with(known.magic));
    if let Some(Known { what, cure, .. }) = KNOWN.iter().find(is) {
        return RomError::Other { what, cure };
    }
    let is_only = |byte: u8| bytes.len() >= BLANK && bytes.iter().all(|it| *it == byte);
    if is_only(0xff) {
        return RomError::Other { what: "nothing but bytes FF", cure: UNREADABLE };
    }
    if is_only(0) {
        return RomError::Other { what: "nothing but bytes 00", cure: UNREADABLE };
    }
    let of_text = || in_text(bytes.get(..TEXT).unwrap_or(bytes));
    let first = bytes.first().copied().unwrap_or_default();
    let signature = RomError::Signature([first, bytes.get(1).copied().unwrap_or_default()]);
    in_vfct(bytes).or_else(|| behind_header(bytes)).or_else(of_text).unwrap_or(signature)
}

/// Finds out what a file is of which these are the first bytes, if they are text.
fn in_text(bytes: &[u8]) -> Option<RomError> {
    let is_text = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n');
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() >= BLANK && bytes.iter().all(is_text))?;
    let (what, cure) = encoded(text)
        .unwrap_or(("text, such as a script or a web page", "make the ConfigMap from the dump of the ROM"));
    Some(RomError::Other { what, cure })
}

/// What a text is that encodes a ROM, and what to do about it.
pub(super) fn encoded(text: &str) -> Option<(&'static str, &'static str)> {
    let text = text.trim_start();
    // The base64 of 55 AA. Its last character also has bits of the third byte.
    let is_base64 = ["Vao", "Vap", "Vaq", "Var"].iter().any(|start| text.starts_with(start));
    let is_hexadecimal =
        text.get(..5).is_some_and(|start| start.replace(' ', "").to_ascii_lowercase().starts_with("55aa"));
    match text {
        _ if is_base64 => Some(("the base64 text of a ROM", "turn it into bytes with base64 -d first")),
        _ if is_hexadecimal => Some(("the hexadecimal text of a ROM", "turn it into bytes with xxd -r -p first")),
        _ if text.starts_with("00000000") => Some(("a hexadecimal listing", "take the file itself")),
        _ => None,
    }
}

/// The ROMs in the ACPI table `VFCT`, with which AMD's firmware passes them on. Source: `drivers/gpu/drm/amd/include/atombios.h`
/// of Linux, `UEFI_ACPI_VFCT` and `VFCT_IMAGE_HEADER`: at 34h is the offset of the first image. Each has a header of 28
/// bytes with the vendor and device ids at 0Ch and 0Eh, and the length of what follows at 18h.
fn in_vfct(bytes: &[u8]) -> Option<RomError> {
    let number = |at: usize| {
        let (low, high) = (word(bytes, at)?, word(bytes, at.checked_add(2)?)?);
        usize::try_from(u32::from(high) << 16 | u32::from(low)).ok()
    };
    let mut at = number(0x34).filter(|_| bytes.starts_with(b"VFCT"))?;
    let (mut images, mut commands) = (Vec::new(), Vec::new());
    while let Some((start, length)) = at.checked_add(0x1c).zip(number(at.saturating_add(0x18))) {
        let is_rom = bytes.get(start..).is_some_and(|image| image.starts_with(&[0x55, 0xaa]));
        let (true, Some(vendor), Some(device)) = (is_rom, word(bytes, at + 0xc), word(bytes, at + 0xe)) else { break };
        images.push(format!("that for {vendor:04x}:{device:04x} at byte {start}"));
        commands.push(format!("dd if=FILE of=rom bs=1 skip={start} count={length}"));
        match start.checked_add(length) {
            Some(next) if images.len() < IMAGES => at = next,
            _ => break,
        }
    }
    let what = format!("the ACPI table VFCT with a ROM inside, {}", images.join(", "));
    (!images.is_empty()).then(|| RomError::Inside { what, command: commands.join(" or ") })
}

/// A ROM that is not at the start, as in NVIDIA's container `NVGI` and the files of some flash tools.
fn behind_header(bytes: &[u8]) -> Option<RomError> {
    let is_rom = |at: &usize| bytes.get(*at..).and_then(pcir).is_some();
    let mut starts = bytes.windows(2).enumerate().filter(|(_, pair)| *pair == [0x55, 0xaa]).map(|(at, _)| at);
    let at = starts.find(is_rom)?;
    let header = if bytes.starts_with(b"NVGI") { "NVIDIA's container NVGI" } else { "a header" };
    let what = format!("{header} with the ROM behind it, at byte {at}");
    Some(RomError::Inside { what, command: format!("dd if=FILE of=rom bs=1 skip={at}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// An image of one block.
    fn image() -> Vec<u8> {
        let mut image = vec![0; 512];
        image[..3].copy_from_slice(&[0x55, 0xaa, 1]);
        image[0x18] = 0x40;
        image[0x40..0x48].copy_from_slice(b"PCIR\x02\x10\x38\x16");
        image[0x55] = 0x80;
        image
    }

    /// The table VFCT with these images.
    fn vfct(images: &[Vec<u8>]) -> Vec<u8> {
        let mut table = vec![0; 0x4c];
        table[..4].copy_from_slice(b"VFCT");
        table[0x34] = 0x4c;
        for (number, image) in (0..).zip(images) {
            let mut header = vec![0; 0x1c];
            header[0xc..0x10].copy_from_slice(&[0x02, 0x10, 0x38 + number, 0x16]);
            header[0x18..0x1a].copy_from_slice(&u16::try_from(image.len()).unwrap().to_le_bytes());
            table.extend([header, image.clone()].concat());
        }
        table
    }

    fn words(bytes: &[u8]) -> String {
        recognize(bytes).to_string()
    }

    #[rstest]
    #[case::vbt(b"$VBT SKYLAKE        ", "is an Intel VBT (video BIOS table), not an option ROM")]
    #[case::opregion(b"IntelGraphicsMem\0\0", "is Intel's OpRegion")]
    #[case::efi_program(b"MZ\x90\0", "EfiRom -f 0xVENDOR -i 0xDEVICE -e FILE -o rom")]
    #[case::gzip(b"\x1f\x8b\x08\0", "is a gzip file, not an option ROM; unpack it")]
    #[case::zip(b"PK\x03\x04", "is a zip file")]
    #[case::capsule(
        b"\xbd\x86\x66\x3b\x76\x0d\x30\x40\xb7\x0e",
        "is a UEFI capsule, not an option ROM; take the ROM out"
    )]
    #[case::volume(&[&[0; 40][..], b"_FVH"].concat(), "is a UEFI firmware volume")]
    #[case::flash(&[&[0xff; 16][..], b"\x5a\xa5\xf0\x0f"].concat(), "is an image of a whole firmware flash")]
    #[case::all_ones(&[0xff; 65536], "is nothing but bytes FF, not an option ROM; the device could not be read")]
    #[case::all_zeros(&[0; 65536], "is nothing but bytes 00")]
    #[case::base64(
        b"VaoCAAAAAAAAAAAA\n",
        "is the base64 text of a ROM, not an option ROM; turn it into bytes with base64 -d"
    )]
    #[case::hexadecimal(
        b"55 AA 79 EB 4B 37\n",
        "is the hexadecimal text of a ROM, not an option ROM; turn it into bytes with xxd -r -p"
    )]
    #[case::listing(b"00000000: 55aa 79eb  U.y.\n", "is a hexadecimal listing")]
    #[case::page(b"<!DOCTYPE html>\n<html>", "is text, such as a script or a web page")]
    #[case::few_zeros(&[0; 3], "starts with 00 00, but an option ROM starts with 55 AA")]
    #[case::unknown(b"NV\x01\xf0\xff", "starts with 4E 56")]
    #[case::vfct_without_a_rom(&vfct(&[vec![0; 512]]), "starts with 56 46")]
    #[case::vfct_cut_off(b"VFCT\0", "starts with 56 46")]
    fn files_that_are_no_rom(#[case] bytes: &[u8], #[case] part: &str) {
        assert!(words(bytes).contains(part), "{}", words(bytes));
    }

    #[test]
    fn a_rom_in_the_acpi_table_is_named_with_the_command_that_cuts_it_out() {
        let words = words(&vfct(&[image()]));
        assert_eq!(
            words,
            "is not an option ROM by itself, but the ACPI table VFCT with a ROM inside, that for 1002:1638 at byte 104; cut it \
             out with dd if=FILE of=rom bs=1 skip=104 count=512, and make the ConfigMap from the file rom"
        );
    }

    #[test]
    fn several_roms_in_the_acpi_table_are_named() {
        let words = words(&vfct(&[image(), image()]));
        assert!(words.contains("that for 1002:1638 at byte 104, that for 1002:1639 at byte 644;"), "{words}");
        assert!(words.contains("skip=104 count=512 or dd if=FILE of=rom bs=1 skip=644 count=512"), "{words}");
        let many = vfct(&vec![image(); 100]);
        assert_eq!(recognize(&many).to_string().matches(" at byte ").count(), IMAGES);
    }

    #[rstest]
    #[case::of_a_flash_tool(b"\x00AMD flash\x55\xaa tool", "a header with the ROM behind it, at byte 17")]
    #[case::of_nvidia(b"NVGI\x01\0\0\0", "NVIDIA's container NVGI with the ROM behind it, at byte 8")]
    #[case::of_text(b"ROM: ", "a header with the ROM behind it, at byte 5")]
    fn a_rom_behind_a_header_is_named_with_its_place(#[case] header: &[u8], #[case] part: &str) {
        let words = words(&[header, &image()].concat());
        assert!(words.contains(part), "{words}");
        assert!(words.contains(&format!("dd if=FILE of=rom bs=1 skip={},", header.len())), "{words}");
    }

    #[test]
    fn a_length_beyond_the_end_does_no_harm() {
        let mut table = vfct(&[image()]);
        table[0x34..0x38].copy_from_slice(&[0xff; 4]);
        assert!(words(&table).contains("a header with the ROM behind it, at byte 104"));
        let mut table = vfct(&[image()]);
        table[0x64..0x68].copy_from_slice(&[0xff; 4]);
        assert!(words(&table).contains("skip=104 count=4294967295"));
    }
}
