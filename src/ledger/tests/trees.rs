//! The tree against another implementation.

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use proptest::prelude::*;
use sha2::Sha256;

use crate::ledger::tree::{Frontier, Hash, Subtrees as _, consistent, included, leaf, root_of};

fn trees(size: usize) -> (Vec<Hash>, MemoryBackedTree<Sha256, Vec<u8>>) {
    let mut other = MemoryBackedTree::new();
    let leaves = (0..size).map(|seq| {
        let entry = format!("entry {seq}").into_bytes();
        let hash = leaf(&entry);
        other.push(entry);
        hash
    });
    (leaves.collect(), other)
}

#[test]
fn the_empty_tree_has_the_root_of_rfc_6962() {
    let expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(crate::json::Digest(Frontier::default().root()).to_string(), format!("sha256:{expected}"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn roots_and_proofs_are_those_of_ct_merkle(size in 1_usize..600, seq in any::<prop::sample::Index>(), old in any::<prop::sample::Index>()) {
        let (leaves, other) = trees(size);
        let root = root_of(leaves.iter().copied());
        let theirs = other.root();
        prop_assert_eq!(theirs.as_bytes().as_slice(), &root);

        let seq = seq.index(size);
        let path = leaves.as_slice().inclusion(seq as u64, size as u64).unwrap();
        let theirs = other.prove_inclusion(seq);
        prop_assert_eq!(theirs.as_bytes(), path.as_flattened());
        prop_assert!(included(&leaves[seq], seq as u64, size as u64, &path, &root));

        let old = old.index(size) + 1;
        let proof = leaves.as_slice().consistency(old as u64, size as u64).unwrap();
        let old_root = root_of(leaves[..old].iter().copied());
        let theirs = other.prove_consistency(size - old);
        prop_assert_eq!(theirs.as_bytes(), proof.as_flattened());
        prop_assert!(consistent(old as u64, size as u64, &old_root, &root, &proof));
    }

    #[test]
    fn a_proof_with_anything_changed_does_not_verify(size in 2_usize..300, seq in any::<prop::sample::Index>(), step in any::<prop::sample::Index>(), bit in 0_usize..256) {
        let (leaves, _) = trees(size);
        let root = root_of(leaves.iter().copied());
        let seq = seq.index(size);
        let mut path = leaves.as_slice().inclusion(seq as u64, size as u64).unwrap();
        let hash = leaves[seq];
        prop_assert!(!included(&hash, (seq as u64 + 1) % size as u64, size as u64, &path, &root));
        prop_assert!(!included(&hash, seq as u64, size as u64, &path[1..], &root));
        let step = step.index(path.len());
        path[step][bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!included(&hash, seq as u64, size as u64, &path, &root));
    }

    #[test]
    fn no_proof_panics(old in any::<u64>(), new in any::<u64>(), proof in prop::collection::vec(any::<[u8; 32]>(), 0..70)) {
        let root = [0; 32];
        included(&root, old, new, &proof, &root);
        consistent(old, new, &root, &root, &proof);
    }
}
