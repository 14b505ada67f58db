//! Uncompressed layers of a Docker archive to gzip, the same bytes every time.
//!
//! The tar inside stays as it is, or its diff id would not: it is compressed as it stands, and compared with the
//! diff id that the image config promises while that happens (reliability IMG-02).

use std::io::{self, BufReader, Read, Write as _};

use oci::compress::{Decoder, Encoder, Encoding};
use oci::digest::{Algorithm, Hasher};
use oci::document::{self, Descriptor, Document, Root};
use oci::layout::Layout;
use oci::media_type::{self, LayerCompression};
use oci::{DiffId, Digest};

use super::Places;
use super::archive::Extent;
use super::place::{Files, Place};
use super::source::Source;
use crate::failure::{Class, Failure, io_class};

/// Most bytes that a layer may unpack to, as for layers of a base.
const LAYER_LIMIT: u64 = 64 << 30;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Returns how many layers of a Docker archive are uncompressed; 0 for every other place.
pub fn unpacked(source: &Source) -> usize {
    match (&source.place, &source.root) {
        (Place::Files(files), Root::Manifest(manifest)) if files.documents.contains_key(&manifest.digest) => {
            manifest.parsed.layers().iter().filter(|layer| is_plain(layer)).count()
        }
        (Place::Files(_) | Place::Store(_) | Place::Layout(_) | Place::Registry(_), _) => 0,
    }
}

/// Packs the uncompressed layers of a Docker archive into blobs of `into`, which is told, and checks all diff ids. The
/// image gets another manifest by that; its config stays. Images of other places stay as they are.
///
/// # Errors
/// A refusal where a layer is not the one that the config names, resource failures.
pub async fn pack(places: &Places, source: &mut Source, into: &Layout) -> Result<(), Failure> {
    tell(places, source);
    let Root::Manifest(manifest) = source.root.clone() else { return Ok(()) };
    match &source.place {
        Place::Files(files) if files.documents.contains_key(&manifest.digest) => {}
        Place::Files(_) | Place::Store(_) | Place::Layout(_) | Place::Registry(_) => return Ok(()),
    }
    let config = source.config(&manifest).await?;
    let Place::Files(files) = &mut source.place else { return Ok(()) };
    let mut layers = Vec::with_capacity(manifest.parsed.layers().len());
    for (number, (layer, diff_id)) in
        (1..).zip(manifest.parsed.layers().iter().zip(&config.parsed.rootfs.diff_ids))
    {
        let task = Task { number, shown: &source.shown, layer, diff_id: *diff_id };
        layers.push(tokio::task::block_in_place(|| task.run(files, into))?);
    }
    let mut parsed = manifest.parsed.clone();
    parsed.set_layers(layers);
    let packed = Document::new(parsed);
    files.documents.insert(packed.digest, packed.raw.clone());
    source.root = Root::Manifest(packed);
    Ok(())
}

fn tell(places: &Places, source: &Source) {
    let count = unpacked(source);
    if count > 0 {
        let layers = if count == 1 { "1 layer".to_owned() } else { format!("{count} layers") };
        places.tell(format!("{layers} of {} compressed with gzip; the image's id stays", source.shown));
    }
}

fn is_plain(layer: &Descriptor) -> bool {
    media_type::layer_compression(layer.media_type().as_ref()) == Some(LayerCompression::None)
}

/// One layer of the archive.
struct Task<'a> {
    /// 1 is the lowest.
    number: usize,
    shown: &'a str,
    layer: &'a Descriptor,
    diff_id: DiffId,
}

impl Task<'_> {
    fn run(&self, files: &mut Files, into: &Layout) -> Result<Descriptor, Failure> {
        let digest = document::digest_of(self.layer).map_err(oci::Error::from)?;
        let extent = files.blobs.get(&digest).expect("layers of an opened archive are there").clone();
        let reader = extent.open().map_err(|error| self.unreadable(&error))?;
        if !is_plain(self.layer) {
            let (decoder, _) =
                Decoder::new(BufReader::new(reader)).map_err(|error| self.unreadable(&error))?;
            self.read(decoder, |_| Ok(()))?;
            return Ok(self.layer.clone());
        }
        let full = |error: io::Error| Failure::from(oci::Error::io("write a blob in", into.root())(error));
        let mut encoder = Encoder::new(into.writer()?, Encoding::GZIP);
        self.read(reader, |bytes| encoder.write_all(bytes).map_err(full))?;
        let written = encoder.finish().map_err(full)?.finish()?;
        let packed = Extent { path: into.blob_path(&written.digest), offset: 0, size: written.size };
        files.blobs.insert(written.digest, packed);
        Ok(written.descriptor(media_type::OCI_LAYER_GZIP))
    }

    /// Reads the uncompressed layer to its end and compares it with its diff id.
    fn read(
        &self,
        mut from: impl Read,
        mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut hasher: Hasher = self.algorithm().hasher();
        let mut buffer = vec![0; CHUNK];
        let mut total = 0_u64;
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.unreadable(&error)),
            };
            total += read as u64;
            if total > LAYER_LIMIT {
                let why = format!("layer {} exceeds the limit of {LAYER_LIMIT} bytes", self.number);
                return Err(Failure::new(Class::Refused, &["unusable image archive", self.shown, &why]));
            }
            hasher.update(&buffer[..read]);
            take(&buffer[..read])?;
        }
        self.compare(hasher.finish())
    }

    fn algorithm(&self) -> Algorithm {
        self.diff_id.0.algorithm()
    }

    fn compare(&self, found: Digest) -> Result<(), Failure> {
        if found == self.diff_id.0 {
            return Ok(());
        }
        let what = format!("layer {}: diff_id mismatch", self.number);
        let why = format!("its content is {found}, the image config says {}", self.diff_id);
        Err(Failure::new(Class::Refused, &[&what, self.shown, &why]))
    }

    fn unreadable(&self, error: &io::Error) -> Failure {
        let what = format!("cannot read layer {}", self.number);
        Failure::new(io_class(error, Class::Source), &[&what, self.shown, &error.to_string()])
    }
}
