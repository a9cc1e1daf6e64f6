module ssechat

go 1.25
