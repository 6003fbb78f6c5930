//! The Merkle tree of RFC 6962, section 2.1 (and RFC 9162, section 2.1): hashes, the compact range that
//! grows with the log, inclusion and consistency proofs.

use aws_lc_rs::digest::{self, SHA256};

/// A node of the tree: SHA-256.
pub type Hash = [u8; 32];

/// The hash of an entry: `SHA-256(0x00 || entry)`.
pub fn leaf(entry: &[u8]) -> Hash {
    let mut context = digest::Context::new(&SHA256);
    context.update(&[0]);
    context.update(entry);
    finished(context)
}

/// The hash of an inner node: `SHA-256(0x01 || left || right)`.
pub fn node(left: &Hash, right: &Hash) -> Hash {
    let mut context = digest::Context::new(&SHA256);
    context.update(&[1]);
    context.update(left);
    context.update(right);
    finished(context)
}

fn finished(context: digest::Context) -> Hash {
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// The right edge of a tree: the roots of its complete subtrees, largest first. All that is needed to
/// append and to know the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The frontier of a tree of `size` leaves, if there are as many peaks as such a tree has.
    pub fn of_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of its complete subtrees, largest first.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        let mut rest = self.size;
        while rest & 1 == 1 {
            if let Some(left) = self.peaks.pop() {
                hash = node(&left, &hash);
            }
            rest >>= 1;
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The root; for an empty tree SHA-256 of nothing.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return finished(digest::Context::new(&SHA256)) };
        peaks.fold(*last, |right, left| node(left, &right))
    }
}

/// The root over a power of two of hashes, or over any number of them.
pub fn root_of(leaves: impl IntoIterator<Item = Hash>) -> Hash {
    let mut frontier = Frontier::default();
    leaves.into_iter().for_each(|leaf| frontier.push(leaf));
    frontier.root()
}

/// Gives the roots of complete subtrees: `(height, index)` covers the leaves from `index << height`.
pub trait Subtrees {
    /// What can go wrong.
    type Error;

    /// The root of one complete subtree.
    ///
    /// # Errors
    /// Whatever keeps it from being known.
    fn subtree(&mut self, height: u32, index: u64) -> Result<Hash, Self::Error>;

    /// The root over the leaves `low..high`, where `low` is where a tree of that many leaves may start.
    ///
    /// # Errors
    /// As [`Subtrees::subtree`].
    fn range(&mut self, low: u64, high: u64) -> Result<Hash, Self::Error> {
        // the complete subtrees of the range, largest first, folded from the right
        let mut peaks = Vec::new();
        let mut at = low;
        while at < high {
            let height = (high - at).ilog2();
            peaks.push(self.subtree(height, at >> height)?);
            at += 1 << height;
        }
        let mut peaks = peaks.into_iter().rev();
        let last = peaks.next().unwrap_or_else(|| Frontier::default().root());
        Ok(peaks.fold(last, |right, left| node(&left, &right)))
    }

    /// The audit path of leaf `seq` in the tree of `size` leaves, the leaf's sibling first
    /// (RFC 6962, section 2.1.1). `seq` is below `size`.
    ///
    /// # Errors
    /// As [`Subtrees::subtree`].
    fn inclusion(&mut self, seq: u64, size: u64) -> Result<Vec<Hash>, Self::Error> {
        let (mut low, mut high) = (0, size);
        let mut path = Vec::new();
        while high - low > 1 {
            let middle = low + split(high - low);
            if seq < middle {
                path.push(self.range(middle, high)?);
                high = middle;
            } else {
                path.push(self.range(low, middle)?);
                low = middle;
            }
        }
        path.reverse();
        Ok(path)
    }

    /// The proof that the tree of `old` leaves is the beginning of that of `new` ones (RFC 6962, section
    /// 2.1.2); empty where they are the same or the old one is.
    ///
    /// # Errors
    /// As [`Subtrees::subtree`].
    fn consistency(&mut self, old: u64, new: u64) -> Result<Vec<Hash>, Self::Error> {
        if old == 0 || old >= new {
            return Ok(Vec::new());
        }
        let (mut low, mut high, mut whole) = (0, new, true);
        let mut proof = Vec::new();
        while old != high {
            let middle = low + split(high - low);
            if old <= middle {
                proof.push(self.range(middle, high)?);
                high = middle;
            } else {
                proof.push(self.range(low, middle)?);
                low = middle;
                whole = false;
            }
        }
        if !whole {
            proof.push(self.range(low, high)?);
        }
        proof.reverse();
        Ok(proof)
    }
}

/// The largest power of two below `size`, which is above 1.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// All leaves in memory.
impl Subtrees for &[Hash] {
    type Error = ();

    fn subtree(&mut self, height: u32, index: u64) -> Result<Hash, ()> {
        let from = usize::try_from(index << height).map_err(drop)?;
        let leaves = self.get(from..from + (1 << height)).ok_or(())?;
        Ok(root_of(leaves.iter().copied()))
    }
}

/// Whether `path` proves that `leaf` is the entry `seq` of the tree with `size` leaves and that root
/// (RFC 9162, section 2.1.3.2).
pub fn included(leaf: &Hash, seq: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if seq >= size {
        return false;
    }
    let (mut place, mut last, mut hash) = (seq, size - 1, *leaf);
    for step in path {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            hash = node(step, &hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, step);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether `proof` proves that the tree of `new` leaves begins with that of `old` ones
/// (RFC 9162, section 2.1.4.2).
pub fn consistent(old: u64, new: u64, old_root: &Hash, new_root: &Hash, proof: &[Hash]) -> bool {
    if old > new {
        return false;
    }
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    if old == 0 {
        return proof.is_empty() && *old_root == Frontier::default().root();
    }
    let mut steps = proof.iter();
    let first = if old.is_power_of_two() { Some(old_root) } else { steps.next() };
    let Some(first) = first else { return false };
    let (mut place, mut last) = (old - 1, new - 1);
    while place & 1 == 1 {
        place >>= 1;
        last >>= 1;
    }
    let (mut old_hash, mut new_hash) = (*first, *first);
    for step in steps {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            old_hash = node(step, &old_hash);
            new_hash = node(step, &new_hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node(&new_hash, step);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old_root && new_hash == *new_root
}
