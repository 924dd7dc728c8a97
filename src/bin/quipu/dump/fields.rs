//! Bytes with names: the fields of a structure of FORMAT.md, one after the other.

/// A structure in a file: a header, a batch, a record, an entry.
pub(crate) struct Structure {
    pub(crate) name: &'static str,
    /// The position in the file, or in the decompressed records.
    pub(crate) at: u64,
    pub(crate) fields: Vec<Field>,
}

/// A field and its bytes.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) value: Shown,
}

/// The meaning of a field's bytes.
pub(crate) enum Shown {
    Number(u64),
    Signed(i64),
    Text(String),
    /// Bytes of a key, a value or a header.
    Content(Vec<u8>),
    /// A checksum that fits, or the one that would.
    Crc {
        found: u32,
        computed: u32,
    },
    /// Nothing but the bytes.
    Raw,
}

impl Structure {
    /// Whether all its checksums fit, and it is not shorter than its fields.
    pub(crate) fn is_whole(&self) -> bool {
        let is_wrong = |field: &Field| {
            field.name == MISSING
                || matches!(field.value, Shown::Crc { found, computed } if found != computed)
        };
        !self.fields.iter().any(is_wrong)
    }
}

/// The name of the rest of a structure that is too short for its next field.
pub(crate) const MISSING: &str = "too short";

/// Takes fields from the beginning of bytes. After the bytes ended every field is `None`.
pub(crate) struct Fields<'b> {
    bytes: &'b [u8],
    taken: usize,
    fields: Vec<Field>,
}

impl<'b> Fields<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Fields { bytes, taken: 0, fields: Vec::new() }
    }

    /// How many bytes were taken so far.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    pub(crate) fn before(&self) -> &'b [u8] {
        self.bytes.get(..self.taken).unwrap_or_default()
    }

    /// Bytes without a meaning of their own.
    pub(crate) fn raw(&mut self, name: &'static str, length: usize) -> Option<&'b [u8]> {
        self.take(name, length, |_| Shown::Raw)
    }

    /// An unsigned integer of 1 to 8 bytes.
    pub(crate) fn number(&mut self, name: &'static str, width: usize) -> Option<u64> {
        self.take(name, width, |bytes| Shown::Number(little_endian(bytes))).map(little_endian)
    }

    /// An `i64`: a time, or another number that may be below zero.
    pub(crate) fn signed(&mut self, name: &'static str) -> Option<i64> {
        self.take(name, 8, |bytes| Shown::Signed(little_endian(bytes) as i64))
            .map(|bytes| little_endian(bytes) as i64)
    }

    /// A magic or a name.
    pub(crate) fn text(&mut self, name: &'static str, length: usize) -> Option<&'b [u8]> {
        self.take(name, length, |bytes| Shown::Text(String::from_utf8_lossy(bytes).into_owned()))
    }

    /// An identity, as hexadecimal digits.
    pub(crate) fn id(&mut self, name: &'static str) -> Option<&'b [u8]> {
        self.take(name, 16, |bytes| Shown::Text(hex(bytes)))
    }

    /// A checksum over `covered`, after `seed`.
    pub(crate) fn crc(&mut self, name: &'static str, seed: &[u8], covered: &[u8]) -> Option<u32> {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(seed);
        hasher.update(covered);
        let computed = hasher.finalize();
        self.take(name, 4, |bytes| Shown::Crc { found: little_endian(bytes) as u32, computed })
            .map(|bytes| little_endian(bytes) as u32)
    }

    /// Seven bits a byte, the least significant first.
    pub(crate) fn varint(&mut self, name: &'static str) -> Option<u64> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        let length =
            rest.iter().take(10).position(|byte| byte & 0x80 == 0).map_or(rest.len().max(1), |at| at + 1);
        self.take(name, length, |bytes| Shown::Number(varint(bytes))).map(varint)
    }

    /// A varint for a number that may be below zero.
    pub(crate) fn zigzag(&mut self, name: &'static str) -> Option<i64> {
        let number = self.varint(name)?;
        let number = (number >> 1) as i64 ^ -((number & 1) as i64);
        if let Some(field) = self.fields.last_mut() {
            field.value = Shown::Signed(number);
        }
        Some(number)
    }

    /// A key, a value or a header.
    pub(crate) fn content(&mut self, name: &'static str, length: u64) -> Option<()> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.take(name, length, |bytes| Shown::Content(bytes.to_vec())).map(|_| ())
    }

    /// The field that was taken last means this.
    pub(crate) fn means(&mut self, text: String) {
        if let Some(field) = self.fields.last_mut() {
            field.value = Shown::Text(text);
        }
    }

    /// The last field of this name means this.
    pub(crate) fn note(&mut self, name: &str, text: String) {
        if let Some(field) = self.fields.iter_mut().rev().find(|field| field.name == name) {
            field.value = Shown::Text(text);
        }
    }

    /// Takes over the fields of bytes that follow those that were taken here.
    pub(crate) fn append(&mut self, others: Fields<'_>) {
        self.taken += others.taken;
        self.fields.extend(others.fields);
    }

    pub(crate) fn end(self, name: &'static str, at: u64) -> Structure {
        Structure { name, at, fields: self.fields }
    }

    fn take(
        &mut self,
        name: &'static str,
        length: usize,
        shown: impl Fn(&[u8]) -> Shown,
    ) -> Option<&'b [u8]> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        let Some(bytes) = rest.get(..length) else {
            // Once: the rest is empty after this.
            self.fields.push(Field {
                name: MISSING,
                bytes: rest.to_vec(),
                value: Shown::Text(format!("no {name}")),
            });
            self.taken = self.bytes.len();
            return None;
        };
        self.fields.push(Field { name, bytes: bytes.to_vec(), value: shown(bytes) });
        self.taken += length;
        Some(bytes)
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn varint(bytes: &[u8]) -> u64 {
    let parts = bytes.iter().zip((0..64).step_by(7));
    parts.fold(0, |number, (byte, shift)| number | u64::from(byte & 0x7f) << shift)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
