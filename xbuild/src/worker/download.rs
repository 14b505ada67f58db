//! Blobs on their way from registries into the store. Each is downloaded once, however many need it, and can be read
//! while it arrives.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use executor::layers::{LayerError, LayerStore};
use oci::Digest;
use oci::compress::ReadAhead;
use oci::document::Descriptor;
use oci::reference::Reference;
use oci::registry::Arrival;
use oci::store::Store;
use tokio::sync::{OnceCell, watch};

use super::error::StepError;
use super::layer::blocking;
use super::packed::Blob;
use crate::registries::Registries;
use crate::whereabouts;

/// The downloads of one command.
pub struct Downloads {
    store: Arc<Store>,
    registries: Arc<Registries>,
    blobs: Mutex<BTreeMap<Digest, Arc<Download>>>,
}

/// One blob, which several layers of several stages may need.
struct Download {
    done: OnceCell<()>,
    place: watch::Sender<Place>,
    /// Bytes could be read that were wrong or not all, before the right ones came from elsewhere.
    was_wrong: AtomicBool,
}

/// Where a blob's bytes can be read.
#[derive(Clone)]
enum Place {
    /// Not known yet.
    Unknown,
    /// In a file that is being written.
    Arriving(Arc<Arrival>),
    /// In the store.
    Store,
    /// Nowhere: the download says why.
    Nowhere,
}

impl Downloads {
    /// Downloads into `store` through `registries`.
    pub fn new(store: Arc<Store>, registries: Arc<Registries>) -> Self {
        Self { store, registries, blobs: Mutex::default() }
    }

    /// Makes sure that a blob is in the store.
    pub async fn finish(&self, blob: &Blob) -> Result<(), StepError> {
        let Some(remote) = &blob.remote else { return Ok(()) };
        let digest = oci::document::digest_of(&blob.descriptor).map_err(oci::Error::from)?;
        let done = self.run(&self.download(digest), remote, digest, blob.descriptor.size()).await;
        done.map_err(|error| told(error, &blob.descriptor))
    }

    /// Does `work` on a thread that may block, with the decompressed archive of a blob, which is in the store
    /// afterwards. The archive may still be arriving: what `work` makes of it counts only when all of this succeeds.
    pub async fn read<T: Send + 'static>(
        &self,
        layers: &LayerStore,
        blob: &Blob,
        work: impl FnOnce(ReadAhead) -> Result<T, LayerError> + Clone + Send + 'static,
    ) -> Result<T, StepError> {
        let (layers, descriptor) = (layers.clone(), blob.descriptor.clone());
        let root = self.store.root().to_owned();
        let failed = move |error| StepError::layer(error, &root);
        let again = (layers.clone(), descriptor.clone(), work.clone(), failed.clone());
        let digest = oci::document::digest_of(&descriptor).map_err(oci::Error::from)?;
        let Some(remote) = &blob.remote else {
            let read = blocking(move || layers.open_tar(&descriptor).and_then(work).map_err(failed)).await;
            let Err(error) = read else { return read };
            let remote = Some(self.where_instead(error, digest).await?);
            let (layers, _, work, _) = again;
            return Box::pin(self.read(&layers, &Blob { remote, ..blob.clone() }, work)).await;
        };
        let download = self.download(digest);
        let reading = async {
            let mut place = download.place.subscribe();
            let place = place.wait_for(|place| !matches!(place, Place::Unknown)).await;
            let place = place.map_or(Place::Nowhere, |place| place.clone());
            blocking(move || match place {
                Place::Arriving(arrival) => {
                    layers.decode(&descriptor, arrival.reader()).and_then(work).map_err(failed)
                }
                Place::Store => layers.open_tar(&descriptor).and_then(work).map_err(failed),
                Place::Unknown | Place::Nowhere => Err(StepError::Stopped),
            })
            .await
        };
        let downloading = self.run(&download, remote, digest, blob.descriptor.size());
        // A reader of what does not arrive fails, too, but only the download knows why.
        let (downloaded, read) = tokio::join!(downloading, reading);
        downloaded.map_err(|error| told(error, &blob.descriptor))?;
        if !download.was_wrong.load(Ordering::Acquire) {
            return read;
        }
        let (layers, descriptor, work, failed) = again;
        blocking(move || layers.open_tar(&descriptor).and_then(work).map_err(failed)).await
    }

    /// Says where a blob can be had that could not be read from the store because it is damaged; otherwise `error` was
    /// right. (CACHE-05)
    async fn where_instead(&self, error: StepError, digest: Digest) -> Result<Reference, StepError> {
        let store = Arc::clone(&self.store);
        let damage = blocking(move || Ok(store.layout().take_out_damaged(&digest)?)).await?;
        let Some(damage) = damage else { return Err(error) };
        let Some(place) = whereabouts::place(&self.store, &digest) else { return Err(damage.into()) };
        self.registries.tell(format!("warning: {damage}; it is fetched again"));
        Ok(place)
    }

    fn download(&self, digest: Digest) -> Arc<Download> {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let place = watch::Sender::new(Place::Unknown);
            Arc::new(Download { done: OnceCell::new(), place, was_wrong: AtomicBool::new(false) })
        };
        Arc::clone(blobs.entry(digest).or_insert_with(new))
    }

    async fn run(
        &self,
        download: &Download,
        remote: &Reference,
        digest: Digest,
        size: u64,
    ) -> Result<(), StepError> {
        let run = || async {
            let done = self.fetch(download, remote, digest, size).await;
            download.place.send_replace(if done.is_ok() { Place::Store } else { Place::Nowhere });
            done
        };
        download.done.get_or_try_init(run).await.map(drop)
    }

    async fn fetch(
        &self,
        download: &Download,
        remote: &Reference,
        digest: Digest,
        size: u64,
    ) -> Result<(), StepError> {
        let layout = self.store.layout();
        if layout.has(&digest)? {
            return Ok(());
        }
        self.store.check_space(size)?;
        let client = self.registries.client()?;
        let mut remote = remote.clone();
        let mut others = whereabouts::others(&self.store, &digest, &remote).into_iter();
        let mut first = None;
        loop {
            let incoming = layout.incoming()?;
            let arrival = Arrival::new(incoming.file()?);
            let mirrored = client.has_mirrors(&remote);
            download.place.send_replace(Place::Arriving(Arc::clone(&arrival)));
            let Err(error) = client.pull_arriving(&remote, digest, size, &arrival).await else {
                incoming.finish_verified(&digest, size)?;
                return Ok(());
            };
            if !(mirrored && error.is_wrong_content()) {
                match others.next().filter(|_| !error.is_sink()) {
                    Some(next) => {
                        self.registries.tell(whereabouts::next(&error, &next));
                        remote = next;
                        first.get_or_insert(error);
                    }
                    None => return Err(first.unwrap_or(error).into()),
                }
            }
            // What was read of it came from nowhere that counts.
            download.was_wrong.store(true, Ordering::Release);
        }
    }
}

/// Adds what is known of a layer that no registry may have.
fn told(error: StepError, descriptor: &Descriptor) -> StepError {
    match (&error, oci::document::kept_elsewhere(descriptor)) {
        (StepError::Registry(cause), Some(url)) => StepError::Layer {
            layer: descriptor.digest().to_string(),
            why: format!("{cause} — {}", whereabouts::elsewhere(url)),
        },
        _ => error,
    }
}
