-- Sends every CT series to Hepaseg as soon as nothing was added to it for StableAge seconds.
-- A node that is away: Orthanc does not try again by itself; POST /jobs/{id}/resubmit does.
function OnStableSeries(id, tags, metadata)
  if tags['Modality'] == 'CT' then
    RestApiPost('/modalities/hepaseg/store', DumpJson({Resources = {id}, Synchronous = false}, true))
  end
end
